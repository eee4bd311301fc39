"""podman and buildah with images of their own, and a container that runs while a block does."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

NEEDED = ("podman", "buildah", "runc")
UP_TIMEOUT_S = 120.0
_CGROUPS = Path("/sys/fs/cgroup")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


class NoPodmanError(Exception):
    """What this machine lacks."""


class Podman:
    """Images and containers below `home`; nothing of the machine's own is seen or touched."""

    def __init__(self, home: Path) -> None:
        if os.geteuid() != 0:
            raise NoPodmanError("needs root")
        if missing := [program for program in NEEDED if shutil.which(program) is None]:
            raise NoPodmanError(f"needs {missing[0]} (apt-get install {' '.join(NEEDED)})")
        # What is mounted is gone after a reboot, and so must be the notes about it.
        run = Path("/run", f"qa-containers-{hashlib.sha256(bytes(home)).hexdigest()[:12]}")
        self._storage = ("--root", str(home), "--runroot", str(run), "--storage-driver", "overlay")
        self.cgroup = f"qa-containers-{os.getpid()}"

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A podman command; fails with what it said."""
        manager = ("--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=file")
        return _run(("podman", *self._storage, *manager, *arguments), check)

    def has_image(self, name: str) -> bool:
        return self("image", "exists", name, check=False).returncode == 0

    def build(self, context: Path, name: str, *arguments: str) -> None:
        """What `docker build` does, in the host's network."""
        how = ("--format", "docker", "--isolation=chroot", "--network=host", "--layers")
        command = ("buildah", *self._storage, "bud", *how, *arguments, "-t", name, str(context))
        _run(command, check=True)

    def run_options(self) -> Iterator[str]:
        """What every container needs here: no network, and limits that this host may set."""
        yield from ("--network=none", f"--cgroup-parent=/{self.cgroup}")
        for name, number, wanted in (
            ("nofile", resource.RLIMIT_NOFILE, 4096),
            ("nproc", resource.RLIMIT_NPROC, 4096),
        ):
            _, hard = resource.getrlimit(number)
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            yield f"--ulimit={name}={limit}:{limit}"

    def once(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        """Run a container to its end: its exit code, and what the program said."""
        ended = self("run", "--rm", *self.run_options(), *options, image, *arguments, check=False)
        # podman's own lines: it misses the host's systemd.
        said = [line for line in ended.stderr.splitlines() if not line.startswith("time=")]
        return ended.returncode, "\n".join([*ended.stdout.splitlines(), *said])

    def remove_cgroups(self) -> None:
        """In either version; what watched a container takes a moment to leave."""
        deadline = time.monotonic() + 10
        while left := [*_CGROUPS.glob(f"*/{self.cgroup}"), *_CGROUPS.glob(self.cgroup)]:
            for cgroup in left:
                with contextlib.suppress(OSError):
                    for inner, *_ in os.walk(cgroup, topdown=False):
                        Path(inner).rmdir()
            assert time.monotonic() < deadline, f"still used: {left}"
            time.sleep(0.05)


class Container:
    """A context manager: `podman run -d IMAGE`, removed in the end."""

    def __init__(self, podman: Podman, image: str, *options: str) -> None:
        self._podman, self._image, self._options = podman, image, options
        self._connections: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Container:
        options = (*self._podman.run_options(), *self._options)
        self.id = self._podman("run", "-d", *options, self._image).stdout.strip()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            connection.close()
        self._podman("rm", "-f", "-v", "-t", "0", self.id)

    def inspect(self, what: str) -> str:
        return self._podman("inspect", "--format", f"{{{{{what}}}}}", self.id).stdout.strip()

    @property
    def pid(self) -> int:
        """Of the container's first process, as the host counts."""
        return int(self.inspect(".State.Pid"))

    def logs(self) -> str:
        ended = self._podman("logs", self.id)
        return ended.stdout + ended.stderr

    def is_healthy(self) -> bool:
        """What the image's HEALTHCHECK says now."""
        return self._podman("healthcheck", "run", self.id, check=False).returncode == 0

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while not self.is_healthy():
            running = self.inspect(".State.Running") == "true"
            assert running and time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def stop(self, timeout_s: int = 10) -> tuple[int, float]:
        """`podman stop`, by default with the time that docker gives: exit code, seconds it took."""
        began = time.monotonic()
        self._podman("stop", "-t", str(timeout_s), self.id)
        return int(self.inspect(".State.ExitCode")), time.monotonic() - began

    def start(self) -> None:
        self._podman("start", self.id)

    def request(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> http.client.HTTPResponse:
        """The answer's beginning; its body comes as it is read."""
        connection = http.client.HTTPConnection("127.0.0.1", 8000)
        connection.sock = _connected(self.pid, ("127.0.0.1", 8000))
        self._connections.append(connection)
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse()


def _connected(pid: int, address: tuple[str, int]) -> socket.socket:
    """A connection from within the network namespace of a process."""
    made: list[socket.socket | OSError] = []

    def connect() -> None:
        # A thread changes namespaces for itself alone, and ends at once.
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with open(f"/proc/{pid}/ns/net", "rb") as namespace:
                if libc.setns(namespace.fileno(), _NEW_NETWORK) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_connection(address, timeout=60))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _run(command: tuple[str, ...], check: bool) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    said = f"{' '.join(command)}: {ended.stdout[-2000:]}{ended.stderr[-4000:]}"
    assert not check or ended.returncode == 0, said
    return ended
