"""Makes a bundle."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from appliance.errors import ModelDirError
from appliance.model_dir import MANIFEST, read_manifest, sha256_of, verify_files
from provisioning.bundle.checkout import code_files, version_of
from provisioning.bundle.contents import CODE, CONTENTS, LOCKS, MODEL, Contents, Entry, TargetWheels
from provisioning.bundle.errors import BundleError
from provisioning.bundle.target import Target
from provisioning.bundle.unpack import verify
from provisioning.bundle.wheels import download

# Of every file, so that the same files make the same bundle. Zip archives begin with 1980.
MTIME = 315_619_200  # 1980-01-02
MARGIN_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Order:
    """What to put into a bundle, and where it goes."""

    out: Path
    checkout: Path
    model_dir: Path
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle that was made and read once."""

    size_bytes: int
    sha256: str
    contents: Contents


def make(order: Order, say: Callable[[str], None]) -> Made:
    """Make `order.out`, or leave what is there as it is.

    Raises `BundleError` when a wheel is not to be had, the model directory is not whole or the disk
    is too small.
    """
    model_dir = order.model_dir.resolve()
    if not order.out.parent.is_dir():
        raise BundleError(f"{order.out.parent} is no directory")
    if order.out.is_dir():
        raise BundleError(f"{order.out} is a directory; name a file")
    model = list(_model_files(model_dir))
    with tempfile.TemporaryDirectory(dir=order.out.parent, prefix=f".{order.out.name}.") as scratch:
        wheels = Path(scratch, "wheels")
        targets = tuple(_fetch(order, target, wheels, say) for target in order.targets)
        say("checksums")
        paths = {
            **{f"{CODE}/{name}": order.checkout / name for name in code_files(order.checkout)},
            **{
                f"wheels/{lock}/{path.name}": path
                for lock in LOCKS
                for path in sorted((wheels / lock).iterdir())
            },
            **{f"{MODEL}/{model_dir.name}/{name}": model_dir / name for name in model},
        }
        entries = {name: _entry(path) for name, path in paths.items()}
        contents = Contents(version_of(order.checkout), model_dir.name, targets, entries)
        _check_room(order.out, contents.total_bytes())
        say(f"writing {order.out}")
        draft = Path(scratch, "bundle")
        _write(draft, contents, paths)
        # What has changed while it was read is found out here, not on the box.
        verify(draft)
        made = Made(draft.stat().st_size, sha256_of(draft), contents)
        draft.replace(order.out)
    return made


def _model_files(directory: Path) -> Iterator[str]:
    try:
        manifest = read_manifest(directory)
        verify_files(directory, manifest, checksums=True)
    except ModelDirError as error:
        raise BundleError(str(error)) from error
    yield MANIFEST
    yield from sorted(manifest.files)


def _fetch(order: Order, target: Target, wheels: Path, say: Callable[[str], None]) -> TargetWheels:
    """The target's wheels, merged into those of the other targets."""
    say(f"wheels for {target}")
    names: dict[str, tuple[str, ...]] = {}
    for lock in LOCKS:
        path = order.checkout / "provisioning" / "requirements" / f"{lock}.lock"
        own = wheels.with_name(f"{lock}-{target.python}-{target.architecture}")
        names[lock] = download(path, target, own)
        (wheels / lock).mkdir(parents=True, exist_ok=True)
        for name in names[lock]:
            (own / name).replace(wheels / lock / name)
    # The box's Python may have no pip either.
    pip = tuple(name for name in names["provision"] if name.startswith("pip-"))
    if len(pip) != 1:
        raise BundleError("provision.lock holds no pip")
    shutil.copy(wheels / "provision" / pip[0], wheels / "run" / pip[0])
    names["run"] += pip
    return TargetWheels(target, names)


def _entry(path: Path) -> Entry:
    return Entry(sha256_of(path), path.stat().st_size, os.access(path, os.X_OK))


def _check_room(out: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < size_bytes + MARGIN_BYTES:
        raise BundleError(
            f"{out.parent}: the bundle has {size_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
        )


def _write(draft: Path, contents: Contents, paths: dict[str, Path]) -> None:
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
        text = contents.to_json()
        archive.addfile(_header(CONTENTS, Entry("", len(text))), BytesIO(text))
        for name, path in paths.items():
            with path.open("rb") as file:
                archive.addfile(_header(name, contents.files[name]), file)


def _header(name: str, entry: Entry) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = entry.size_bytes
    header.mode = 0o755 if entry.executable else 0o644
    header.mtime = MTIME
    return header
