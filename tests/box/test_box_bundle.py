"""A new Debian 13 machine, without internet and without a checkout: a bundle and the README."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import image
from tests.box.box import Box
from tests.box.installed import SERVICE, TUNE_PROFILE, wait_until

# The first one may have to make the image.
pytestmark = [pytest.mark.box, pytest.mark.model, pytest.mark.timeout(900)]

SUITE, PYTHON = "trixie", "3.13"
BUNDLE = "qwen-appliance.tar"
MODEL = "SmolLM2-135M-Instruct"
VARIABLES = {"qwen_appliance_tune_profile": TUNE_PROFILE, "qwen_appliance_tune_engine_s": 1}
PROVISION_TIMEOUT_S = 400.0


def typed_on_a_box() -> tuple[str, str]:
    """The two commands of the README's section: one unpacks the code, one provisions."""
    readme = (image.ROOT / "provisioning/README.md").read_text()
    section = readme.partition("\n## Without internet\n")[2].partition("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    unpack = next(number for number, line in enumerate(lines) if line.startswith("tar -xf"))
    return lines[unpack], lines[unpack + 1].removeprefix("sudo ")


@pytest.fixture(scope="module")
def bundle(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / BUNDLE
    options = ("--model-dir", model_dir, "--bundle-python", PYTHON)
    program = image.ROOT / "provisioning/bundle"
    made = subprocess.run(
        [sys.executable, program, "make", out, *options], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    return out


class NewBox:
    """The box, and what a person types there."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.took_s = 0.0

    def type(self, command: str, check: bool = True) -> str:
        """What a shell's command says, in root's home."""
        line = f"cd /root && exec 2>&1 && {command}"
        timeout_s = PROVISION_TIMEOUT_S
        return self.box.run("sh", "-c", line, check=check, timeout_s=timeout_s).stdout

    def provision(self, *options: str, check: bool = True) -> str:
        """The README's command, with what a box cannot have, and with further options."""
        further = shlex.join(["-e", json.dumps(VARIABLES), *options])
        return self.type(f"{typed_on_a_box()[1]} {further}", check=check)

    def answer(self) -> str:
        """What the model says; empty while nobody does."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "What is 2+2?"}],
            "max_tokens": 8,
        }
        ended = self.box.run(
            *("curl", "-s", "-f", "-m", "20", "-H", "Content-Type: application/json"),
            *("-d", json.dumps(body), "http://127.0.0.1:8000/v1/chat/completions"),
            check=False,
        )
        if ended.returncode:
            return ""
        return str(json.loads(ended.stdout)["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def new_box(
    bundle: Path, n100_cpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewBox]:
    def fill(root: Path) -> None:
        shutil.copy(bundle, root / "root" / BUNDLE)

    try:
        image_dir = image.provide_debian(SUITE)
    except image.NoBoxError as error:
        pytest.skip(f"no box: {error}")
    work = tmp_path_factory.mktemp("new")
    with Box(image_dir, work, "new", fill=fill, fake=n100_cpus) as box:
        yield NewBox(box)


@pytest.fixture(scope="module")
def provisioned(new_box: NewBox) -> NewBox:
    """The same, after the README's commands."""
    assert new_box.type("ip -4 route") == ""
    assert "No module named" in new_box.type("python3 -c 'import ensurepip'", check=False)
    new_box.type(typed_on_a_box()[0])
    began = time.monotonic()
    said = new_box.provision()
    new_box.took_s = time.monotonic() - began
    assert new_box.box.property(SERVICE, "ActiveState") == "active", said
    return new_box


def test_a_damaged_bundle_changes_nothing(new_box: NewBox) -> None:
    new_box.type(typed_on_a_box()[0])
    place = new_box.box.path(f"/root/{BUNDLE}").stat().st_size // 2
    flip = f"printf x | dd of={BUNDLE} bs=1 seek={place} conv=notrunc"
    new_box.type(f"mv {BUNDLE} whole && cp whole {BUNDLE} && {flip}")
    said = new_box.provision(check=False)
    new_box.type(f"mv whole {BUNDLE}")
    assert "is damaged: its checksum is another one" in said
    for place in ("/opt/qwen-appliance", "/root/qwen-appliance/.bundle"):
        assert not new_box.box.path(place).exists()


def test_a_new_machine_serves(provisioned: NewBox, capsys: pytest.CaptureFixture[str]) -> None:
    box = provisioned.box
    assert 'VERSION_ID="13"' in box.path("/etc/os-release").read_text()
    assert provisioned.answer()
    process = box.property(SERVICE, "MainPID")
    runs = box.run("readlink", f"/proc/{process}/exe").stdout.strip()
    assert runs == f"/usr/bin/python{PYTHON}"
    with capsys.disabled():
        sys.stdout.write(f"\nDebian 13 provisioned from a bundle: {provisioned.took_s:.1f} s\n")


def test_a_second_run_changes_nothing(provisioned: NewBox) -> None:
    before = provisioned.box.property(SERVICE, "MainPID")
    assert "changed=0" in provisioned.provision()
    assert provisioned.box.property(SERVICE, "MainPID") == before


def test_it_serves_again_after_a_power_cut(provisioned: NewBox) -> None:
    provisioned.box.cut_power()
    provisioned.box.up()
    wait_until(provisioned.answer, "serving")
    assert provisioned.box.systemctl("--failed", "--plain", "--no-legend") == ""


def test_it_goes_as_it_came(provisioned: NewBox) -> None:
    provisioned.provision("--uninstall")
    for place in ("/opt/qwen-appliance", "/etc/qwen-appliance", "/var/lib/qwen-appliance"):
        assert not provisioned.box.path(place).exists()
