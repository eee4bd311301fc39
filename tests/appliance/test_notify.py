"""Messages to the supervisor, over a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from pathlib import Path

import pytest

from appliance.notify import Notifier
from tests.notify_socket import NotifySocket


def test_messages_over_a_path(tmp_path: Path) -> None:
    with NotifySocket(str(tmp_path / "notify")) as supervisor:
        supervisor.listen()
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": supervisor.address})
        assert notifier.is_heard
        notifier.extend_timeout(1.5)
        notifier.status("loading\nREADY=1")
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        supervisor.wait_for("STOPPING=1")
        assert supervisor.messages == [
            "EXTEND_TIMEOUT_USEC=1500000",
            "STATUS=loading READY=1",  # a line break in a text must not begin another message
            "READY=1",
            "WATCHDOG=1",
            "STOPPING=1",
        ]


def test_messages_over_an_abstract_name() -> None:
    with NotifySocket(f"@qwen-appliance-{uuid.uuid4()}") as supervisor:
        Notifier(supervisor.listen().address).ready()
        supervisor.wait_for("READY=1")


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}])
def test_without_a_supervisor_nothing_is_sent(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.from_environment(env)
    assert not notifier.is_heard
    assert notifier.watchdog_s is None
    notifier.ready()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("env", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),  # meant for our parent
    ],
)
def test_the_watchdogs_time(env: dict[str, str], watchdog_s: float | None) -> None:
    assert Notifier.from_environment({"NOTIFY_SOCKET": "@x", **env}).watchdog_s == watchdog_s


@pytest.mark.parametrize("text", ["soon", "-1", "0", "1.5"])
def test_a_watchdogs_time_that_is_none(text: str, caplog: pytest.LogCaptureFixture) -> None:
    env = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": text}
    assert Notifier.from_environment(env).watchdog_s is None
    assert text in caplog.text


def test_a_supervisor_that_is_gone_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        notifier.ready()
        notifier.alive()
    (record,) = caplog.records
    assert str(tmp_path / "nobody") in record.getMessage()


def test_a_supervisor_that_reads_nothing_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with NotifySocket(str(tmp_path / "notify")) as supervisor:
        # Fill its queue, which holds a few datagrams.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    filler.sendto(b"x", supervisor.address)
        notifier, began = Notifier(supervisor.address), time.monotonic()
        notifier.alive()
        assert time.monotonic() - began < 3
        assert "does not take messages" in caplog.text
        supervisor.listen().wait_for("x")
        notifier.alive()
        supervisor.wait_for("WATCHDOG=1")
