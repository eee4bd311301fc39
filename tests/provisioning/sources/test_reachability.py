from __future__ import annotations

import socket
import time

import pytest

from provisioning.build_model.sources import hub_answers
from tests.provisioning.sources.fake_hub import FakeHub


def test_a_hub_that_knows_the_model_answers(hub: FakeHub) -> None:
    assert hub_answers(5.0, "Tiny/Qwen2")


def test_a_hub_without_the_model_does_not(hub: FakeHub) -> None:
    assert not hub_answers(5.0, "Tiny/Nothing")


def test_a_closed_port_does_not(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    assert not hub_answers(5.0)


def test_a_server_that_accepts_and_stays_silent_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        assert not hub_answers(0.3)
        assert time.monotonic() - begin < 5


def test_a_portal_that_greets_everybody_is_no_hub(hub: FakeHub) -> None:
    hub.repos["Tiny/Qwen2"].extra = {"id": None}
    hub.answer = lambda request: _greeting()  # type: ignore[method-assign,assignment,return-value]
    assert not hub_answers(5.0, "Tiny/Qwen2")


def _greeting() -> object:
    from tests.provisioning.sources.file_server import Response

    return Response(200, b"<html>please log in to the wireless network</html>")
