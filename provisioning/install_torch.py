"""Installs the CPU build of torch into the venv whose Python runs this.

torch stands outside the lock: the same version is another file on every index, and the one on the
common index may be a CUDA build that weighs gigabytes. So the CPU index is asked first, if it
answers, and nothing is downloaded before pip has said what it would take.

`TORCH_INDEX_URL` names another index for torch alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 3.0
REQUIREMENT = Path(__file__).resolve().parent / "requirements" / "torch.txt"
GPU_PACKAGES = re.compile(r"nvidia|cuda|triton|rocm|intel-(sycl|opencl|cmplr)", re.IGNORECASE)


class TorchError(Exception):
    """No CPU build of torch can be had; the text says what was found and what to do."""


def index_arguments(wanted: str | None, cpu_index: str) -> list[str]:
    """pip's arguments for where to look: `wanted` if given, `cpu_index` if it answers, else none.

    pip tries an index that does not answer again and again, for eight seconds, hence the probe.
    """
    if wanted:
        return ["--index-url", wanted]
    return ["--index-url", cpu_index] if answers(cpu_index) else []


def answers(index_url: str) -> bool:
    """Whether the index lists torch within `PROBE_TIMEOUT_S`."""
    request = urllib.request.Request(f"{index_url.rstrip('/')}/torch/", method="HEAD")  # noqa: S310
    try:
        # The address is a constant above, or the user's own.
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S):  # noqa: S310
            return True
    except OSError:  # no route, no such host, refused, too slow, or an HTTP error
        return False


def planned(pip_install: Sequence[str]) -> dict[str, Any]:
    """What pip would install: the one item of its dry run's report, nothing downloaded for good."""
    command = [*pip_install, "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise TorchError(
            f"pip finds no torch to install (see above); {REQUIREMENT.name} asks for "
            f"{REQUIREMENT.read_text(encoding='utf-8').strip()}. TORCH_INDEX_URL=URL names an "
            "index that has its CPU build"
        )
    (item,) = json.loads(done.stdout)["install"]
    assert isinstance(item, dict)
    return item


def gpu_requirements(requires_dist: Sequence[str]) -> list[str]:
    """Those requirements that hold on this machine and belong to a GPU build."""
    # pip's own copy of `packaging`: nothing else is sure to be there.
    from pip._vendor.packaging.requirements import Requirement

    found = []
    for text in requires_dist:
        requirement = Requirement(text)
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if holds and GPU_PACKAGES.search(requirement.name):
            found.append(requirement.name)
    return found


def refuse_gpu_build(item: dict[str, Any]) -> None:
    """Raise `TorchError` unless `item` of pip's report is a build for the CPU."""
    metadata, url = item["metadata"], item["download_info"]["url"]
    found = gpu_requirements(metadata.get("requires_dist", []))
    if found:
        raise TorchError(
            f"torch {metadata['version']} from {url} is a GPU build: it asks for "
            f"{len(found)} packages such as {found[0]}, gigabytes that no CPU uses. Nothing was "
            f"installed. Set TORCH_INDEX_URL to an index of CPU builds ({CPU_INDEX} or a "
            "mirror of it) and run this again"
        )


def main() -> int:
    """Check, then install; exit status 1 when there is no CPU build to install."""
    where = index_arguments(os.environ.get("TORCH_INDEX_URL"), CPU_INDEX)
    pip_install = [sys.executable, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    pip_install += ["--no-compile", "--no-deps", *where, "-r", str(REQUIREMENT)]
    try:
        refuse_gpu_build(planned(pip_install))
    except TorchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return subprocess.run(pip_install).returncode


if __name__ == "__main__":
    sys.exit(main())
