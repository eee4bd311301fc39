"""A bare box over ssh, from the first run of the playbook to the last: the tests tell one story.

Each begins where the one before ended; one that fails takes those behind it along.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.model_dir import MANIFEST
from tests.box import image
from tests.box.fleet import COMMAND, GATEWAY
from tests.box.installed import SERVICE, wait_until
from tests.box.provisioned import NAME, PORT, Controller, controller, copy_checkout, tree

# The first one may have to make the images.
pytestmark = [pytest.mark.box, pytest.mark.model, pytest.mark.timeout(900)]

CONFIG = "/etc/qwen-appliance/config.yaml"
UNIT = f"/usr/lib/systemd/system/{SERVICE}"
RELEASES = "/opt/qwen-appliance/releases"
MODELS = "/var/lib/qwen-appliance/models"
GOVERNOR = "cpufreq/policy0/scaling_governor"
DRAINED = (
    "The gateways send this box nothing new",
    "box : The service is stopped for what changes",
    "box : It is verified",
    "The gateways send this box requests again",
)
# What a box has of having been logged into and worked on, whoever did what there.
NOT_OURS = re.compile(
    r"/root/[.]ansible\b|/etc/(passwd|group|shadow|gshadow)-|/etc/[.]pwd[.]lock"
    r"|/var/lib/systemd/|/var/tmp/systemd-private-"
)

WRITTEN_BY_THE_SERVICE = re.compile(r"/var/lib/qwen-appliance/kv\b|/var/cache/qwen-appliance\b")


@pytest.fixture(scope="module")
def desk(
    box_image: Path, n100_cpus: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controller]:
    directory = tmp_path_factory.mktemp("desk")
    try:
        with controller(model_dir, n100_cpus, directory) as made:
            yield made
    except image.NoBoxError as error:
        pytest.skip(f"no box: {error}")


@pytest.fixture(scope="module")
def bare(desk: Controller) -> list[str]:
    """The files of the box before anything."""
    return tree(desk.box)


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


def changed(run: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed the box, or would have."""
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr
    (number,) = re.findall(r"^box-1 .*changed=(\d+)", run.stdout, re.MULTILINE)
    return int(number)


def plan(run: subprocess.CompletedProcess[str]) -> list[str]:
    """What a run with `--check` says it would change."""
    told = run.stdout.partition("What would change")[2].partition("\nTASK")[0]
    return re.findall(r"^ +- '?(.+?)'?$", told, re.MULTILINE)


def chat(
    desk: Controller, key: str | None, *, url: str | None = None, **options: Any
) -> tuple[int, str]:
    """Status and text of what a client in the network gets."""
    body = {"messages": [{"role": "user", "content": "What is 2+2?"}], "max_tokens": 8, **options}
    authorization = ("-H", f"Authorization: Bearer {key}") if key else ()
    url = url or f"http://{desk.box.address}:{PORT}"
    models = subprocess.run(
        desk.net.command("curl", "-s", *authorization, f"{url}/v1/models"),
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    served = json.loads(models).get("data", [{"id": "?"}])[0]["id"]
    ended = subprocess.run(
        desk.net.command(
            *("curl", "-s", "-S", "-N", "-m", "60", "-w", "\n%{http_code}", *authorization),
            *("-H", "Content-Type: application/json"),
            *("-d", json.dumps({"model": served, **body}), f"{url}/v1/chat/completions"),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    text, _, status = ended.stdout.rpartition("\n")
    return int(status), text


def release(desk: Controller) -> str:
    """Of which release the link that the units name is."""
    target = desk.box.run("readlink", "/opt/qwen-appliance/venv").stdout.strip()
    assert target.startswith("releases/") and target.endswith("/venv")
    return target.split("/")[1]


def other_model(model_dir: Path, to: Path, **changes: Any) -> Path:
    """A copy with another manifest; the large files are links."""
    to.mkdir()
    for file in model_dir.iterdir():
        if file.name != MANIFEST:
            (to / file.name).symlink_to(file)
    manifest = json.loads((model_dir / MANIFEST).read_text())
    (to / MANIFEST).write_text(json.dumps(manifest | changes))
    return to


def test_check_tells_what_would_change_on_a_bare_box_and_changes_nothing(
    desk: Controller, bare: list[str]
) -> None:
    run = desk.provision("--check", "--diff")
    assert changed(run) > 0
    told = plan(run)
    assert f"{CONFIG} is written" in told and "the user qwen-appliance is made" in told
    assert any(line.startswith("model: none -> ") for line in told)
    assert ours(tree(desk.box)) == ours(bare)
    assert not desk.key_file.exists()


def test_one_run_makes_a_bare_box_serve(
    desk: Controller, bare: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    run = desk.provision()
    took_s = time.monotonic() - began
    assert changed(run) > 0
    assert "golden prompt as it should" in run.stdout and desk.key in run.stdout
    assert chat(desk, None)[0] == 401
    status, text = chat(desk, desk.key, stream=True)
    assert status == 200 and text.count("data: {") > 2 and text.endswith("data: [DONE]\n\n")
    assert (desk.box.fake / "cpu" / GOVERNOR).read_text().strip() == "performance"
    assert desk.box.property(SERVICE, "UnitFileState") == "enabled"
    fact = json.loads(desk.box.path("/etc/ansible/facts.d/qwen_appliance.fact").read_text())
    assert fact["ms_per_token"] > 0
    say(capsys, f"provisioned a bare box over ssh: first run {took_s:.0f} s")


def test_a_second_run_changes_nothing(desk: Controller, capsys: pytest.CaptureFixture[str]) -> None:
    pid = desk.box.property(SERVICE, "MainPID")
    began = time.monotonic()
    assert changed(desk.provision()) == 0
    assert desk.box.property(SERVICE, "MainPID") == pid
    say(capsys, f"second run, changed=0: {time.monotonic() - began:.0f} s")


def test_an_upgrade_keeps_the_old_release_and_drains_the_box_first(desk: Controller) -> None:
    assert changed(desk.provision(gateways=True)) == 0
    desk.checkout = copy_checkout(desk.directory / "newer")
    unit = desk.checkout / "systemd" / SERVICE
    unit.write_text(unit.read_text().replace("MemoryHigh=1536M", "MemoryHigh=1500M"))
    old = release(desk)
    run = desk.provision(gateways=True)
    assert changed(run) > 0
    assert desk.box.property(SERVICE, "MemoryHigh") == str(1500 << 20)
    told = json.loads(desk.box.path("/var/lib/qwen-appliance/provisioned.json").read_text())
    assert release(desk) == told["release"] != old == told["previous_release"]
    assert desk.box.path(f"{RELEASES}/{old}/release.json").exists()
    order = [run.stdout.index(f"TASK [{name}") for name in DRAINED]
    assert order == sorted(order)
    assert run.stdout.count(f"{NAME} -> {GATEWAY}] => (item={GATEWAY})") == 2
    assert re.search(rf"^{NAME} +UP", desk.gateway.run(COMMAND, "status").stdout, re.MULTILINE)
    url = f"http://{desk.gateway.address}:{PORT}"
    assert chat(desk, desk.key, url=url)[0] == 200


def test_check_names_what_drifted(desk: Controller) -> None:
    with desk.box.path(CONFIG).open("a") as config:
        config.write("# by hand\n")
    desk.box.path(UNIT).chmod(0o600)
    before = tree(desk.box)
    run = desk.provision("--check", "--diff")
    assert changed(run) == 2
    assert plan(run) == [f"{UNIT} is written", f"{CONFIG} is written"]
    assert "-# by hand" in run.stdout
    assert provisioned(tree(desk.box)) == provisioned(before)


def test_a_wrong_setting_is_told_while_the_old_ones_serve(desk: Controller) -> None:
    pid = desk.box.property(SERVICE, "MainPID")
    run = desk.provision(
        variables={"qwen_appliance_config": {"engine": {"max_num_seqs": 0}}},
    )
    assert run.returncode == 2 and "engine.max_num_seqs = 0" in run.stdout
    assert "is as it was, and what serves there serves on" in run.stdout
    assert desk.box.property(SERVICE, "MainPID") == pid


def test_an_upgrade_that_fails_its_verification_is_taken_back(
    desk: Controller, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another release, other settings, another unit, and a model that answers otherwise."""
    golden = json.loads((model_dir / MANIFEST).read_text())["golden"]
    golden["greedy_ids"][0] += 1
    broken = other_model(model_dir, tmp_path / "broken", golden=golden)
    before, was = tree(desk.box), release(desk)
    config = desk.box.path(CONFIG).read_text()
    began = time.monotonic()
    run = replace(desk, checkout=image.ROOT).provision(
        variables={
            "qwen_appliance_model_dir": str(broken),
            "qwen_appliance_config": {"engine": {"max_model_len": 512}},
        }
    )
    assert run.returncode == 2
    assert "the golden prompt is answered with" in run.stdout
    assert f"Rolled back: release {was} serves again" in run.stdout
    assert release(desk) == was and provisioned(tree(desk.box)) == provisioned(before)
    assert desk.box.path(CONFIG).read_text() == config
    assert desk.box.property(SERVICE, "MemoryHigh") == str(1500 << 20)
    assert chat(desk, desk.key)[0] == 200
    say(capsys, f"an upgrade that failed, and back: {time.monotonic() - began:.0f} s")


def test_a_full_disk_leaves_nothing_half_published(
    desk: Controller, model_dir: Path, tmp_path: Path
) -> None:
    """The disk of the models has room for the one that is there, and for the half of another."""
    box, state = desk.box, "/var/lib/qwen-appliance"
    pid = box.property(SERVICE, "MainPID")
    box.run("cp", "-a", state, "/root/state")
    box.run("mount", "-t", "tmpfs", "-o", "size=220m,mode=0755", "tmpfs", state)
    try:
        box.run("cp", "-a", "/root/state/.", state)
        before = box.run("find", state).stdout
        new = {
            "qwen_appliance_model_dir": str(other_model(model_dir, tmp_path / "new", name="New"))
        }
        run = desk.provision(variables=new)
        assert run.returncode == 2 and "MB free for" in run.stdout and "[disk]" in run.stdout
        run = desk.provision(variables=new | {"qwen_appliance_ignored_problems": ["disk"]})
        assert run.returncode == 2 and "is as it was, and what serves there serves on" in run.stdout
        told = run.stdout.rpartition("serves on")[2]
        assert "The model is copied: " in told and "No space left on device" in told
        assert box.run("find", state).stdout == before
    finally:
        box.run("umount", state)
        box.run("rm", "-r", "/root/state")
    assert box.property(SERVICE, "MainPID") == pid and chat(desk, desk.key)[0] == 200


def test_uninstalled_nothing_is_left(desk: Controller, bare: list[str]) -> None:
    absent = {"qwen_appliance_state": "absent"}
    run = desk.provision(variables=absent | {"qwen_appliance_keep_models": True})
    assert changed(run) > 0
    left = set(ours(tree(desk.box))) - set(ours(bare))
    parents = ("/var/lib/qwen-appliance", MODELS)
    paths = {line.split()[0] for line in left} - set(parents)
    assert paths and all(path.startswith(f"{MODELS}/") for path in paths)
    assert (desk.box.fake / "cpu" / GOVERNOR).read_text().strip() == "powersave"
    assert changed(desk.provision(variables=absent)) > 0
    assert ours(tree(desk.box)) == ours(bare)
    wait_until(lambda: desk.box.systemctl("is-system-running", check=False) == "running", "well")


def ours(files: list[str]) -> list[str]:
    return [line for line in files if not NOT_OURS.match(line)]


def provisioned(files: list[str]) -> list[str]:
    """Without what the service writes while it runs."""
    return [line for line in ours(files) if not WRITTEN_BY_THE_SERVICE.match(line)]
