"""On the box: everything that would keep the appliance from running here, all at once, as JSON.

`preflight.py JSON`, of what the role wants. Prints `{"problems": [{"id", "text"}, ...], "python":
"3.11", ...}`. Changes nothing; standard library only; runs on Python 3.7, too, to say how old it
is.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from typing import Any

SYSTEMS = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
ARCHITECTURES = ("x86_64", "aarch64")
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_SYSTEMD = 249
MAX_CLOCK_ERROR_S = 600
_LISTENING = "0A"
_PYTHON = (
    "import sys, json\n"
    "try:\n    import venv, ensurepip\n    has = True\nexcept ImportError:\n    has = False\n"
    "print(json.dumps([list(sys.version_info[:2]), has]))"
)


class Preflight:
    """The checks, on the file system below `root`; `problems` fills as they run."""

    def __init__(self, wanted: dict[str, Any], root: str = "/") -> None:
        self.wanted = wanted
        self.root = root
        self.problems: list[dict[str, str]] = []
        self.told: dict[str, Any] = {"architecture": platform.machine(), "needs_venv": False}

    def run(self) -> dict[str, Any]:
        """What is told, problems included."""
        self.system()
        self.cpu()
        self.memory()
        self.disk()
        self.python()
        self.systemd()
        self.port()
        self.clock()
        self.place()
        return {**self.told, "problems": self.problems}

    def problem(self, name: str, text: str) -> None:
        self.problems.append({"id": name, "text": text})

    def read(self, path: str) -> str:
        try:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def system(self) -> None:
        told = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', self.read("etc/os-release"), re.M))
        name, version = told.get("ID", "?"), told.get("VERSION_ID", "?")
        self.told["system"] = told.get("PRETTY_NAME", name)
        if version not in SYSTEMS.get(name, ()):
            self.problem(
                "system",
                f"{self.told['system']}: Debian 12, 13, Ubuntu 22.04 and 24.04 are supported",
            )
        if os.geteuid() != 0:
            self.problem("root", "root is needed: log in as root, or set ansible_become")

    def cpu(self) -> None:
        machine = self.told["architecture"]
        if machine not in ARCHITECTURES:
            self.problem("architecture", f"{machine}: x86_64 and aarch64 (64 bits) are supported")
        flags = re.search(r"^flags\s*:(.*)$", self.read("proc/cpuinfo"), re.M)
        if machine == "x86_64" and "avx2" not in (flags.group(1).split() if flags else []):
            self.problem(
                "cpu",
                "no AVX2, which OpenVINO needs (in a virtual machine: pass the host's CPU on)",
            )

    def memory(self) -> None:
        total = re.search(r"^MemTotal:\s*(\d+) kB", self.read("proc/meminfo"), re.M)
        total_mb = int(total.group(1)) // 1024 if total else 0
        if total_mb < self.wanted["min_memory_mb"]:
            self.problem(
                "memory", f"{total_mb} MB of memory, {self.wanted['min_memory_mb']} needed"
            )

    def disk(self) -> None:
        """What is missing for all that is to come, added up for each file system."""
        needed: dict[int, tuple[tuple[str, ...], int, str]] = {}
        for path, num_mb in self.wanted["disk_mb"].items():
            there = os.path.join(self.root, path.lstrip("/"))
            while not os.path.exists(there):
                there = os.path.dirname(there)
            device = os.stat(there).st_dev
            names, sum_mb, _ = needed.get(device, ((), 0, there))
            needed[device] = ((*names, path), sum_mb + num_mb, there)
        for names, sum_mb, there in needed.values():
            free_mb = shutil.disk_usage(there).free >> 20
            if free_mb < sum_mb:
                self.problem(
                    "disk", f"{free_mb} MB free for {' and '.join(names)}, {sum_mb} needed"
                )

    def python(self) -> None:
        python = self.wanted["python"]
        try:
            ended = subprocess.run([python, "-c", _PYTHON], capture_output=True, text=True)
            version, has_venv = json.loads(ended.stdout)
        except (OSError, ValueError):
            self.problem("python", f"{python} does not run; name another in qwen_appliance_python")
            return
        self.told["python"] = ".".join(map(str, version))
        if not OLDEST_PYTHON <= tuple(version) <= NEWEST_PYTHON:
            self.problem("python", f"{python} is {self.told['python']}; 3.10 to 3.13 are supported")
        self.told["needs_venv"] = not has_venv and not self.wanted["brings_pip"]
        if self.told["needs_venv"] and not (self.wanted["may_install"] and shutil.which("apt-get")):
            self.problem(
                "venv", f"{python} has no complete venv module: apt-get install python3-venv"
            )

    def systemd(self) -> None:
        if not os.path.isdir(os.path.join(self.root, "run/systemd/system")):
            self.problem("systemd", "systemd does not run here")
            return
        ended = subprocess.run(["systemctl", "--version"], capture_output=True, text=True)
        found = re.search(r"systemd (\d+)", ended.stdout)
        self.told["systemd"] = int(found.group(1)) if found else 0
        if self.told["systemd"] < OLDEST_SYSTEMD:
            self.problem(
                "systemd", f"systemd {self.told['systemd']}, {OLDEST_SYSTEMD} or newer needed"
            )

    def port(self) -> None:
        """Who listens on the port, unless it is the appliance itself or systemd for it."""
        port, inodes = self.wanted["port"], set()  # type: int, set[str]
        for table in ("proc/net/tcp", "proc/net/tcp6"):
            for line in self.read(table).splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
        if not inodes:
            return
        for pid in filter(str.isdigit, os.listdir(os.path.join(self.root, "proc"))):
            if pid == "1" or "qwen-appliance.service" in self.read(f"proc/{pid}/cgroup"):
                inodes -= self.sockets(pid)
            elif self.sockets(pid) & inodes:
                name = self.read(f"proc/{pid}/comm").strip()
                self.problem(
                    "port",
                    f"port {port} is taken by {name} (process {pid}); end it, or set "
                    "qwen_appliance_port",
                )
                return
        if inodes:
            self.problem("port", f"port {port} is taken by a program that cannot be seen from here")

    def sockets(self, pid: str) -> set[str]:
        directory = os.path.join(self.root, "proc", pid, "fd")
        found = set()
        try:
            for name in os.listdir(directory):
                found.add(os.readlink(os.path.join(directory, name)))
        except OSError:
            pass
        return found

    def clock(self) -> None:
        off_s = time.time() - self.wanted["now"]
        if abs(off_s) > MAX_CLOCK_ERROR_S:
            way = "ahead of" if off_s > 0 else "behind"
            self.problem(
                "clock",
                f"the clock is {abs(off_s):.0f} s {way} the controller's; set it "
                "(timedatectl set-ntp true)",
            )

    def place(self) -> None:
        venv = os.path.join(self.root, self.wanted["base"].lstrip("/"), "venv")
        if os.path.isdir(venv) and not os.path.islink(venv):
            self.problem(
                "place", f"{self.wanted['base']}/venv was not made by this role; move it away"
            )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(Preflight(json.loads(sys.argv[1])).run()) + "\n")
