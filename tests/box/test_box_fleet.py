"""Three boxes behind HAProxy as the role sets it up: stickiness, a power cut, a rolling upgrade."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import image
from tests.box.fleet import (
    COMMAND,
    CONFIG,
    GATEWAY,
    NAMES,
    Fleet,
    fleet,
    replies_of,
)
from tests.box.fleet_client import Reply
from tests.box.installed import SERVICE
from tests.box.provisioned import controller, copy_checkout

# The first one may have to make the images.
pytestmark = [pytest.mark.box, pytest.mark.model, pytest.mark.timeout(900)]

ROLE = {"name": "The gateway", "ansible.builtin.import_role": {"name": "gateway"}}
QWEN_APPLIANCE = "/opt/qwen-appliance/venv/bin/qwen-appliance"
NEWER = "99.0.0"
# So that a box which was down has its full share at once.
QUICK = ("-e", json.dumps({"qwen_appliance_gateway_slowstart_s": 2}))


@pytest.fixture(scope="module")
def built(
    box_image: Path, n100_cpus: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """One box is provisioned, and the three are copies of it."""
    directory = tmp_path_factory.mktemp("fleet")
    with controller(model_dir, n100_cpus, tmp_path_factory.mktemp("first")) as desk:
        desk.variables["qwen_appliance_config"] = CONFIG
        provisioned = desk.provision()
        assert provisioned.returncode == 0, provisioned.stdout + provisioned.stderr
        first = (image.provide_gateway(), n100_cpus, directory, desk.variables, desk.key_file)
        with fleet(desk.box.layers(), *first) as built:
            yield built


@pytest.fixture(scope="module")
def gateway(built: Fleet) -> Fleet:
    """The same, after the role has run."""
    built.first_run = built.play([ROLE], *QUICK)
    for name in NAMES:
        built.wait_for(name, "UP")
    return built


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


def failed(replies: list[Reply]) -> list[Reply]:
    return [reply for reply in replies if reply.status != 200 or not reply.whole]


def test_the_role_installs_haproxy_and_a_second_run_changes_nothing(gateway: Fleet) -> None:
    assert f"{GATEWAY}" in gateway.first_run and "changed=5" in gateway.first_run
    assert "changed=0" in gateway.play([ROLE], *QUICK)
    box = gateway.gateway
    checked = box.run("haproxy", "-c", "-f", "/etc/haproxy/haproxy.cfg")
    assert "WARNING" not in checked.stdout + checked.stderr
    assert gateway.status() == {name: "UP" for name in NAMES}
    exported = box.run("curl", "-s", "http://127.0.0.1:8405/metrics").stdout
    assert 'haproxy_server_status{proxy="generate",server="box-1",state="UP"} 1' in exported


def test_turns_of_a_conversation_meet_their_prefix(gateway: Fleet) -> None:
    begun = [[f"Story number {number}: tell me of the sea and the ships."] for number in range(6)]
    seen: list[set[str]] = [set() for _ in begun]
    for turn in range(3):
        replies = gateway.ask(*(gateway.chat(*texts, max_tokens=12) for texts in begun))
        assert not failed(replies)
        for texts, boxes, reply in zip(begun, seen, replies, strict=True):
            boxes.add(reply.box)
            assert reply.cached_tokens > 20 * turn
            texts += [reply.text, "And then?"]
    assert [len(boxes) for boxes in seen] == [1] * len(begun)
    assert {box for boxes in seen for box in boxes} == set(NAMES)


def test_a_power_cut_costs_only_what_had_begun(
    gateway: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [
        gateway.chat(f"Question {number}: why?", max_tokens=40, ignore_eos=True)
        | ({"stream": True} if number % 2 else {})
        for number in range(60)
    ]
    lost = gateway.boxes[NAMES[1]]
    with gateway.clients(bodies, concurrency=9) as clients:
        assert clients.stdout is not None
        before = [Reply(**json.loads(clients.stdout.readline())) for _ in range(15)]
        # Without a farewell: with its processes, the kernel would close their connections.
        gateway.net.cable(lost.name, "down")
        cut_at = time.time()
        lost.cut_power()
        replies = before + replies_of(clients)
        took_s = time.time() - cut_at
    assert len(replies) == 60
    broken = failed(replies)
    assert all(reply.stream and 0 < reply.first < cut_at + 0.1 for reply in broken), broken
    assert all(reply.box == NAMES[1] and reply.error for reply in broken), broken
    after = [reply for reply in replies if reply.ended > cut_at]
    moved = [r for r in after if r.began < cut_at < r.first and r.box != NAMES[1]]
    waited_s = max(reply.first - cut_at for reply in moved)
    told_s = max((reply.ended - cut_at for reply in broken), default=0.0)
    assert max(waited_s, told_s) < 30
    assert gateway.status()[NAMES[1]] == "DOWN"
    began = time.time()
    gateway.net.cable(lost.name, "up")
    lost.up()
    gateway.wait_for(NAMES[1], "UP")
    say(
        capsys,
        f"power cut under load: {len(broken)} streams cut, the last told after {told_s:.1f} s; the "
        f"last of {len(moved)} others began elsewhere after {waited_s:.1f} s; all {len(after)} "
        f"ended after {took_s:.1f} s. Power to requests again: {time.time() - began:.1f} s",
    )


def test_a_rolling_upgrade_under_load_loses_nothing(
    gateway: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The playbook's own: every box gets another release, is measured, and waits for its turn."""
    checkout = copy_checkout(tmp_path / "newer")
    package = checkout / "appliance" / "__init__.py"
    package.write_text(re.sub('(__version__ = )".*"', rf'\1"{NEWER}"', package.read_text()))
    bodies = [
        gateway.chat(f"Topic {number}", max_tokens=24, ignore_eos=True)
        | ({"stream": True} if number % 2 else {})
        for number in range(12)
    ]
    rolled = tmp_path / "rolled"
    replies: list[Reply] = []
    with gateway.clients(bodies, concurrency=3, until=rolled) as clients:
        reader = threading.Thread(target=lambda: replies.extend(replies_of(clients)))
        reader.start()
        began = time.time()
        try:
            gateway.provision(checkout, *QUICK)
            took_s = time.time() - began
        finally:
            rolled.touch()
            reader.join()
    for box in gateway.boxes.values():
        assert box.run(QWEN_APPLIANCE, "--version").stdout.split()[-1] == NEWER
    assert {reply.box for reply in replies} == set(NAMES)
    assert not failed(replies)
    say(capsys, f"rolling upgrade of three boxes: {took_s:.1f} s, {len(replies)} requests, 0 lost")


def test_a_box_that_is_not_ready_stays_drained(gateway: Fleet) -> None:
    name = NAMES[2]
    run, box = gateway.gateway.run, gateway.boxes[name]
    assert run(COMMAND, "drain", name).returncode == 0
    box.systemctl("stop", SERVICE)
    refused = run(COMMAND, "enable", name, "--wait", "0", check=False)
    assert refused.returncode == 6 and "is not ready, and stays as it was" in refused.stderr
    assert gateway.status()[name] == "MAINT"
    # As it does over a reload, which the conversations' places survive as well.
    begun = gateway.chat("Where am I?", max_tokens=4)
    (first,) = gateway.ask(begun)
    run("systemctl", "reload", "haproxy")
    assert gateway.status()[name] == "MAINT"
    assert {reply.box for reply in gateway.ask(*[begun] * 3)} == {first.box}
    box.systemctl("start", SERVICE)
    assert run(COMMAND, "enable", name).returncode == 0
    gateway.wait_for(name, "UP")
    assert run(COMMAND, "drain", "nobody", check=False).returncode == 3


def test_measured_rates_are_weights(gateway: Fleet) -> None:
    """And no box's answer is needed for it to keep its place."""
    for name, ms in zip(NAMES, (20.0, 40.0, None), strict=True):
        facts = gateway.boxes[name].path("/etc/ansible/facts.d/qwen_appliance.fact")
        facts.write_text(json.dumps({"ms_per_token": ms} if ms else {}))
    gateway.play([ROLE], *QUICK)
    lines = gateway.gateway.run(COMMAND, "status").stdout.splitlines()[1:]
    assert [line[40:46].strip() for line in lines] == ["100", "50", "75"]
