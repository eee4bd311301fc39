"""What a container cannot show: a kernel of its own that kills for memory in cgroup v2 and filters
packets for a unit, and a CPU without AVX-512. Only by `-m vm`: it takes ten minutes or more."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.box.image import NoBoxError
from tests.box.installed import install
from tests.vm import machine

pytestmark = [pytest.mark.vm, pytest.mark.model, pytest.mark.timeout(5400)]

UNIT = """\
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/guest.py
StandardOutput=tty
TTYPath=/dev/ttyS0
"""
# One pass of the model takes seconds here, and so does what else the machine has to do.
PATIENCE = "[Service]\nWatchdogSec=600\n"
CONFIG = """\
server:
  host: 0.0.0.0
  allow_no_key: true
"""


def prepare(root: Path, model_dir: Path) -> None:
    install(root, model_dir)
    shutil.copy(Path(__file__).with_name("guest.py"), root / "opt/guest.py")
    (root / "etc/systemd/system/guest.service").write_text(UNIT)
    drop_ins = root / "etc/systemd/system/qwen-appliance.service.d"
    drop_ins.mkdir()
    (drop_ins / "emulated.conf").write_text(PATIENCE)
    # A login on the console would hang up whoever writes to it.
    (root / "etc/systemd/system/serial-getty@ttyS0.service").symlink_to("/dev/null")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "guest.service").symlink_to("/etc/systemd/system/guest.service")
    with (root / "etc/qwen-appliance/config.yaml").open("a") as file:
        file.write(CONFIG)


@pytest.fixture(scope="module")
def seen(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    lacking = machine.missing()
    if lacking:
        pytest.skip(f"no emulated machine: {lacking}")
    try:
        root = machine.provide()
    except NoBoxError as error:
        pytest.skip(f"no emulated machine: {error}")
    fill = partial(prepare, model_dir=model_dir)
    return machine.emulate(root, tmp_path_factory.mktemp("vm"), fill, timeout_s=5000)


def test_a_cpu_without_avx512_answers(seen: dict[str, object]) -> None:
    assert (seen["avx2"], seen["avx512"], seen["start"]) == (True, False, 0)
    answer = json.loads(str(seen["answer"]))
    assert answer["choices"][0]["message"]["content"]
    # No clock to tune in this machine: said, and no failure.
    assert seen["tuning"] == "success"


def test_packets_of_strangers_are_dropped(seen: dict[str, object]) -> None:
    assert seen["private"] == "200"
    assert seen["public"] == "000"
    assert seen["public_allowed"] == "200"  # so it was the unit that dropped them


def test_the_kernel_ends_a_service_that_takes_too_much(seen: dict[str, object]) -> None:
    assert seen["cgroup_version"] == 2
    assert seen["oom_kill"] and seen["restarted"]
    assert seen["restarts"] == "1"
    assert json.loads(str(seen["answer_after"]))["choices"]
