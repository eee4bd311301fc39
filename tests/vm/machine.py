"""An emulated machine: a kernel of its own, control groups of version 2, a CPU without AVX-512.

Every instruction is emulated, so it is some fifty times slower than this machine. It shows what a
container cannot, and nothing about speed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.box import image

PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs"}
KERNEL_PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "zstd")
CPU = "Haswell"  # AVX2 and FMA, as an N100 has them; no AVX-512
MEMORY_MB = 3072
DISK = "3G"


def missing() -> str | None:
    """What this machine lacks to emulate another."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            return f"needs {program} (apt-get install {package})"
    return None


def provide() -> Path:
    """The image of the boxes with a kernel, as a directory. Raises `image.NoBoxError`."""
    boxes = image.provide()

    def build(root: Path, _: Path) -> None:
        image.run("cp", "-a", "--reflink=auto", str(boxes), str(root))
        environment = ("env", "DEBIAN_FRONTEND=noninteractive")
        install = ("apt-get", "install", "-y", "--no-install-recommends", *KERNEL_PACKAGES)
        image.in_image(root, *environment, "apt-get", "update")
        image.in_image(root, *environment, *install)
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)

    return image.provide_as("vm", (boxes.name, *KERNEL_PACKAGES), build)


def emulate(
    root: Path, work: Path, fill: Callable[[Path], None], timeout_s: float
) -> dict[str, object]:
    """Boot a copy of `root` that `fill` changed, until it powers itself off; what it has `SEEN`."""
    upper, merged, inner = (work / name for name in ("upper", "merged", "work"))
    for directory in (upper, merged, inner):
        directory.mkdir()
    layers = f"lowerdir={root},upperdir={upper},workdir={inner}"
    image.run("mount", "-t", "overlay", "overlay", "-o", layers, str(merged))
    try:
        (merged / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        (merged / "etc/hostname").write_text("emulated\n")
        (merged / "etc/machine-id").write_text("")
        fill(merged)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(_boot_file(merged, name), work / name)
        image.run("mke2fs", "-q", "-t", "ext4", "-d", str(merged), str(work / "disk"), DISK)
    finally:
        image.run("umount", str(merged))
    console = work / "console"
    with console.open("wb") as output:
        subprocess.run(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35"),
                *("-cpu", CPU, "-smp", "2", "-m", str(MEMORY_MB), "-nodefaults"),
                *("-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
                *("-kernel", str(work / "vmlinuz"), "-initrd", str(work / "initrd.img")),
                *("-append", "console=ttyS0 root=/dev/vda rw quiet"),
                *("-drive", f"file={work}/disk,format=raw,if=virtio", "-serial", "stdio"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    return _seen(console.read_text(encoding="utf-8", errors="replace"))


def _boot_file(root: Path, name: str) -> Path:
    (newest,) = sorted((root / "boot").glob(f"{name}-*"))[-1:]
    return newest


def _seen(console: str) -> dict[str, object]:
    seen: dict[str, object] = {}
    for line in console.splitlines():
        _, mark, rest = line.partition("SEEN ")
        if mark:
            name, _, value = rest.strip().partition(" ")
            seen[name] = json.loads(value)
    assert seen.get("end"), f"the machine did not come to its end:\n{console[-3000:]}"
    return seen
