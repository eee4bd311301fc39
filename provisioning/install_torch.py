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


def places(wanted: str | None, cpu_index: str) -> list[list[str]]:
    """Where to look, as arguments for pip, the best place first.

    `wanted` alone if given, else `cpu_index` if it answers, then the index pip is set up with. pip
    tries an index that does not answer again and again, for eight seconds, hence the probe.
    """
    if wanted:
        return [["--index-url", wanted]]
    return [["--index-url", cpu_index], []] if answers(cpu_index) else [[]]


def answers(index_url: str) -> bool:
    """Whether the index lists torch within `PROBE_TIMEOUT_S`."""
    request = urllib.request.Request(f"{index_url.rstrip('/')}/torch/", method="HEAD")  # noqa: S310
    try:
        # The address is a constant above, or the user's own.
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S):  # noqa: S310
            return True
    except OSError:  # no route, no such host, refused, too slow, or an HTTP error
        return False


def planned(pip_install: Sequence[str]) -> dict[str, Any] | None:
    """What pip would install: the one item of its dry run's report; None if it finds nothing."""
    command = [*pip_install, "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return None
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


def install(pip_install: Sequence[str], wanted: str | None, cpu_index: str = CPU_INDEX) -> None:
    """Check what pip would take from each place in turn and install the first thing found.

    Raises `TorchError` when nothing is found, when it is no CPU build, or when pip fails.
    """
    for place in places(wanted, cpu_index):
        command = [*pip_install, "--no-deps", *place, "-r", str(REQUIREMENT)]
        item = planned(command)
        if item is None:
            continue  # the page answered but not the host of the files; pip has said so above
        refuse_gpu_build(item)
        if subprocess.run(command).returncode:
            raise TorchError("pip could not install torch (see above)")
        return
    raise TorchError(
        f"pip finds no {REQUIREMENT.read_text(encoding='utf-8').strip()} for this machine (see "
        "above); TORCH_INDEX_URL=URL names an index that has its CPU build"
    )


def main() -> int:
    """Check, then install; exit status 1 when there is no CPU build to install."""
    pip_install = [sys.executable, "-m", "pip", "install", "--no-input", "--no-compile"]
    try:
        install([*pip_install, "--progress-bar", "off"], os.environ.get("TORCH_INDEX_URL"))
    except TorchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
