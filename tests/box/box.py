"""A throw-away machine with a real systemd: a container of its own root file system and network.

systemd-nspawn boots a copy-on-write view of the image. Needs root; what it makes in the host (a
mount, a network namespace, cgroups) is gone after `close`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.box.net import Net

CGROUPS = Path("/sys/fs/cgroup")
# The controllers of cgroup v1, if the host has any: nspawn mounts them read-only.
CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "pids")
# Makes limits work in the box, and puts fake hardware in place, before systemd looks at either.
INIT = f"""#!/bin/sh
for c in {" ".join(CONTROLLERS)}; do
  [ ! -d /sys/fs/cgroup/$c ] || mount -o remount,bind,rw /sys/fs/cgroup/$c
done
[ ! -d /box/fake/cpu ] || mount --bind /box/fake/cpu /sys/devices/system/cpu
for f in cpuinfo meminfo; do
  [ ! -f /box/fake/$f ] || mount --bind /box/fake/$f /proc/$f
done
exec /lib/systemd/systemd "$@"
"""
ENVIRONMENT = (
    "env",
    "-i",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
)
UP_TIMEOUT_S = 30.0
_NUMBERS = itertools.count(1)


def host(
    *command: str, check: bool = True, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """A command on the host; fails with what it said."""
    ended = subprocess.run(command, text=True, capture_output=True, timeout=timeout_s, check=False)
    assert not check or ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended


class Box:
    """A context manager: the box is up while the block runs.

    `fill` is called with the root of its file system before it boots. `fake` is a directory whose
    `cpu/`, `cpuinfo` and `meminfo` replace the host's; the box has a copy, `self.fake`.
    `memory_bytes` bounds all of the box. With a `net` it has an `address` there, and otherwise no
    network.
    """

    def __init__(
        self,
        image: Path,
        work: Path,
        name: str,
        *,
        fill: Callable[[Path], None] = lambda root: None,
        fake: Path | None = None,
        memory_bytes: int | None = None,
        net: Net | None = None,
    ) -> None:
        self.name = f"qa-{name}-{os.getpid()}-{next(_NUMBERS)}"
        self.directory = work / name
        self.root = self.directory / "root"
        self.fake = self.directory / "fake"
        self.leader = 0
        self.address = ""
        self._image = image
        self._fill = fill
        self._fake_from = fake
        self._memory_bytes = memory_bytes
        self._net = net
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroups = list(self._own_cgroups())

    def __enter__(self) -> Box:
        try:
            self._prepare()
            return self.up()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        for part in ("root", "upper", "work"):
            (self.directory / part).mkdir(parents=True)
        upper, work = self.directory / "upper", self.directory / "work"
        layers = f"lowerdir={self._image},upperdir={upper},workdir={work}"
        host("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        host("ip", "netns", "add", self.name)
        host("ip", "-n", self.name, "link", "set", "lo", "up")
        if self._net is not None:
            self.address = self._net.attach(self.name)
        if self._fake_from is not None:
            shutil.copytree(self._fake_from, self.fake, symlinks=True)
        (self.directory / "init").write_text(INIT)
        (self.directory / "init").chmod(0o755)
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost {self.name}\n")
        (self.root / "etc/machine-id").write_text("")
        self._fill(self.root)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def up(self) -> Box:
        """Boot, until systemd says that it is up; again after `stop` or `cut_power`."""
        self._make_cgroups()
        console = (self.directory / "console").open("ab")
        self._process = subprocess.Popen(
            [
                *("systemd-nspawn", "-q", "-D", str(self.root), "-M", self.name),
                *("--keep-unit", "--register=no", "--console=read-only", "--resolv-conf=off"),
                *("--timezone=off", "--link-journal=no", "--kill-signal=SIGRTMIN+3"),
                # Lets IPAddressDeny= work.
                *("--capability=CAP_BPF", "--system-call-filter=bpf"),
                f"--network-namespace-path=/run/netns/{self.name}",
                f"--bind-ro={self.directory}/init:/box-init",
                *([f"--bind={self.fake}:/box/fake"] if self.fake.exists() else []),
                "/box-init",
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            preexec_fn=self._enter_cgroups,
        )
        console.close()
        self._wait_until(self._is_up, UP_TIMEOUT_S)
        return self

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        enter = ("nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
        return host(*enter, *ENVIRONMENT, *command, check=check, timeout_s=timeout_s)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What `systemctl` says, without the last line break."""
        ended = self.run("systemctl", "--no-pager", *arguments, check=check)
        return (ended.stdout + ended.stderr).rstrip("\n")

    def journal(self, unit: str) -> str:
        """What the unit said since the box is up."""
        return self.run("journalctl", "-b", "-q", "--no-pager", "-o", "cat", "-u", unit).stdout

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as `systemctl show` prints it."""
        return self.systemctl("show", "-P", name, unit)

    def path(self, inside: str) -> Path:
        """A file of the running box, mounts included, as the host sees it."""
        return Path(f"/proc/{self.leader}/root", inside.lstrip("/"))

    def stop(self) -> None:
        """Shut down in order."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.cut_power()

    def layers(self) -> Path:
        """End this box; its file system is the image of further ones until `close`."""
        self.stop()
        self._release()
        return Path(f"{self.directory / 'upper'}:{self._image}")

    def reboot(self) -> None:
        """As a machine does: all units stop in order, then it boots again."""
        assert self._process is not None
        self.systemctl("reboot", check=False)  # it may be gone before it answers
        self._process.wait(30)
        self.up()

    def cut_power(self) -> None:
        """End everything at once. (nspawn itself must not be killed: its child would live on.)"""
        assert self._process is not None
        os.kill(self.leader, signal.SIGKILL)
        self._process.wait(10)

    def close(self) -> None:
        try:
            self.stop()
        finally:
            self._release()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _release(self) -> None:
        """What the box has in the host; nothing if that was done before."""
        host("umount", str(self.root), check=False)
        host("ip", "netns", "del", self.name, check=False)
        for cgroup in self._cgroups:
            for inner, *_ in os.walk(cgroup, topdown=False):
                Path(inner).rmdir()

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self.directory / "console").read_text()[-2000:])
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            (leader,) = children.read_text().split()
            if Path(f"/proc/{leader}/comm").read_text() != "systemd\n":
                return False
        except (OSError, ValueError):
            return False
        self.leader = int(leader)
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{self.name} did not come up"
            time.sleep(0.03)

    # cgroups: limits inside work, and reach nothing outside, when the box starts in groups of its
    # own. Where the host has version 2 alone, nspawn does that itself.

    def _own_cgroups(self) -> Iterator[Path]:
        if (CGROUPS / "cgroup.controllers").exists():
            return
        own = {}
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own[controllers] = path.lstrip("/")
        for controller in CONTROLLERS:
            yield CGROUPS / controller / own.get(controller, "") / self.name
        yield from (CGROUPS / "systemd" / self.name, CGROUPS / "unified" / self.name)

    def _make_cgroups(self) -> None:
        for cgroup in self._cgroups:
            cgroup.mkdir(exist_ok=True)
            if "cpuset" in cgroup.parts:
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (cgroup / file).write_text((cgroup.parent / file).read_text())
            if "memory" in cgroup.parts and self._memory_bytes:
                (cgroup / "memory.limit_in_bytes").write_text(str(self._memory_bytes))

    def _enter_cgroups(self) -> None:
        """In the child: a session of its own, in the box's cgroups."""
        os.setsid()
        for cgroup in self._cgroups:
            (cgroup / "cgroup.procs").write_text("0")
