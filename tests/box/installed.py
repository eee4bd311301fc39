"""Puts this checkout, its units and a model into a box, and speaks with the service there."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from appliance.model_dir import MANIFEST
from tests.box.box import Box
from tests.box.image import ROOT, SITE_PACKAGES, VENV

SERVICE = "qwen-appliance.service"
STAGE = "qwen-appliance-stage.service"
TUNE = "qwen-appliance-tune.service"
SOCKET = "qwen-appliance.socket"
MOUNT = r"run-qwen\x2dappliance-model.mount"
UNITS = (SERVICE, STAGE, TUNE, SOCKET, MOUNT)
MODEL = "var/lib/qwen-appliance/models/model"
DROP_IN = "etc/systemd/system/qwen-appliance.service.d/test.conf"
FAULTY = "opt/qwen-appliance/faulty_service.py"
START_TIMEOUT_S = 60.0
_COMMAND = f"""#!/{VENV}/bin/python3
import sys
from appliance.cli import main
sys.exit(main())
"""
_CONFIG = f"""
model:
  dir: /{MODEL}
engine:
  max_model_len: 1024
"""
# A box has a tree of its own for clocks, but shares the kernel: these two would be the host's.
TUNE_PROFILE = {
    "transparent_hugepages": {"value": None, "reason": "the host's"},
    "swappiness": {"value": None, "reason": "the host's"},
}


def install(root: Path, model_dir: Path) -> None:
    """Fill the file system of a box that is not up yet."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "appliance", root / SITE_PACKAGES / "appliance", ignore=ignored)
    shutil.copy(Path(__file__).with_name("faulty_service.py"), root / FAULTY)
    command = root / VENV / "bin/qwen-appliance"
    command.write_text(_COMMAND)
    command.chmod(0o755)
    for unit in UNITS:
        shutil.copy(ROOT / "systemd" / unit, root / "usr/lib/systemd/system" / unit)
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copytree(ROOT / "systemd" / kind, root / "usr/lib" / kind, dirs_exist_ok=True)
    shutil.copytree(model_dir, root / MODEL)
    (root / "etc/qwen-appliance").mkdir()
    (root / "etc/qwen-appliance/config.yaml").write_text(_CONFIG)
    (root / "etc/qwen-appliance/tune.yaml").write_text(json.dumps(TUNE_PROFILE))


class Installed:
    """The service in a box that is up."""

    def __init__(self, box: Box) -> None:
        self.box = box
        # As pip does; the service itself may not write beside its sources.
        box.run(f"/{VENV}/bin/python3", "-m", "compileall", "-q", f"/{SITE_PACKAGES}/appliance")
        self.model = json.loads(box.path(f"{MODEL}/{MANIFEST}").read_text())["name"]

    def start(self) -> str:
        """`systemctl start`; what it said if it failed, nothing otherwise."""
        return self.box.systemctl("start", SERVICE, check=False)

    def stop(self) -> None:
        self.box.systemctl("stop", SOCKET, SERVICE)
        wait_until(lambda: self.state(MOUNT) == "inactive", "unmounted")

    def state(self, unit: str = SERVICE) -> str:
        return self.box.property(unit, "ActiveState")

    def pid(self) -> int:
        return int(self.box.property(SERVICE, "MainPID"))

    def drop_in(self, text: str) -> None:
        """Change the service's unit, until `reset`."""
        path = self.box.path(DROP_IN)
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[Service]\n{text}\n")
        self.box.systemctl("daemon-reload")

    def reset(self) -> None:
        """Stopped, and as installed."""
        self.stop()
        self.box.path(DROP_IN).unlink(missing_ok=True)
        self.box.systemctl("daemon-reload")
        self.box.systemctl("reset-failed")

    def chat(self, *options: str, max_tokens: int = 8, timeout_s: int = 20) -> tuple[int, Any]:
        """Status and body of a chat; status 0 when nobody answered, the body then says why."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "What is 2+2?"}],
            "max_tokens": max_tokens,
        }
        ended = self.box.run(
            *("curl", "-s", "-S", "-m", str(timeout_s), "-w", "\n%{http_code}", *options),
            *("-H", "Content-Type: application/json", "-d", json.dumps(body)),
            "http://127.0.0.1:8000/v1/chat/completions",
            check=False,
        )
        text, _, status = ended.stdout.rpartition("\n")
        return int(status), json.loads(text) if text else ended.stderr

    def is_serving(self) -> bool:
        return self.chat(max_tokens=1)[0] == 200

    def seconds_until_serving(self, since: float) -> float:
        wait_until(self.is_serving, "serving")
        return time.monotonic() - since


def wait_until(condition: Any, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.05)
