"""torch: the CPU build from the first place that has it, and never a GPU build."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioning import install_torch

SCRIPT = Path(install_torch.__file__)
VERSION = install_torch.REQUIREMENT.read_text(encoding="utf-8").strip().removeprefix("torch==")
GPU_NEEDS = "nvidia-cublas-cu12==12.8; platform_system == 'Linux'"


@dataclass(frozen=True)
class Index:
    """A package index on this machine, as plain files behind a web server."""

    folder: Path
    url: str

    def add_torch(self, *requires: str, version: str = VERSION) -> None:
        """Put a torch there: a wheel of one empty module that asks for `requires`."""
        page = self.folder / "torch"
        page.mkdir()
        name = f"torch-{version}-py3-none-any.whl"
        info = f"torch-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
        with zipfile.ZipFile(page / name, "w") as wheel:
            wheel.writestr("torch.py", "")
            wheel.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{needs}",
            )
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")
        (page / "index.html").write_text(f'<a href="{name}">{name}</a>')


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "index"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Index(folder, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of an empty venv that borrows this one's pip."""
    directory = tmp_path / "venv"
    venv.create(directory, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    (here,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{here}\n")
    return directory / "bin" / "python"


@pytest.fixture(autouse=True)
def no_pip_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)


def run(python: Path, index: Index) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TORCH_INDEX_URL": index.url}
    return subprocess.run([python, SCRIPT], env=environment, capture_output=True, text=True)


def installed(python: Path) -> bool:
    return bool(list(python.parent.parent.glob("lib/python*/site-packages/torch-*.dist-info")))


def test_a_cpu_build_is_installed(python: Path, index: Index) -> None:
    index.add_torch("sympy", "filelock; python_version > '3'", version=f"{VERSION}+cpu")
    done = run(python, index)
    assert done.returncode == 0, done.stderr
    assert installed(python)


def test_a_gpu_build_is_refused_before_anything_is_installed(python: Path, index: Index) -> None:
    index.add_torch("sympy", GPU_NEEDS, "triton==3.4; platform_system == 'Linux'")
    done = run(python, index)
    assert done.returncode == 1
    assert f"{index.url}/torch/torch-{VERSION}" in done.stderr
    assert "is a GPU build: it asks for 2 packages such as nvidia-cublas-cu12" in done.stderr
    assert "TORCH_INDEX_URL" in done.stderr
    assert not installed(python)


def test_what_only_other_machines_need_does_not_make_it_a_gpu_build() -> None:
    elsewhere = "nvidia-cublas-cu12; platform_system == 'Plan9'"
    assert install_torch.gpu_requirements([elsewhere, "pynvml; extra == 'nvml'"]) == []
    assert install_torch.gpu_requirements([GPU_NEEDS, "cuda-bindings"]) == [
        "nvidia-cublas-cu12",
        "cuda-bindings",
    ]


def test_an_index_without_torch_is_one_clear_line(python: Path, index: Index) -> None:
    done = run(python, index)
    assert done.returncode == 1
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith(f"pip finds no torch=={VERSION} for this machine")
    assert "TORCH_INDEX_URL" in last_line


def test_a_cpu_index_whose_files_cannot_be_had_gives_way_to_pips_own(
    python: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add_torch()
    broken = index.folder / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "index.html").write_text("nothing for this machine")
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    pip_install = [str(python), "-m", "pip", "install"]
    install_torch.install(pip_install, None, cpu_index=f"{index.url}/broken")
    assert installed(python)


def test_the_cpu_index_comes_first_if_it_answers(index: Index) -> None:
    index.add_torch()
    assert install_torch.places(None, index.url) == [["--index-url", index.url], []]


def test_an_index_of_ones_own_is_the_only_one(index: Index) -> None:
    assert install_torch.places("http://mirror/cpu", index.url) == [
        ["--index-url", "http://mirror/cpu"]
    ]


def test_an_index_that_is_not_there_or_silent_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_torch, "PROBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not install_torch.answers(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 2
        closed_port = silent.getsockname()[1]
    assert install_torch.places(None, f"http://127.0.0.1:{closed_port}") == [[]]
