"""The locks say exactly what is installed, for every Python and machine; the venvs hold that."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "provisioning" / "requirements"
LOCKS = ("run", "build", "test", "clients", "provision")
TORCH_WORLD = {
    "torch",
    "torchvision",
    "torchaudio",
    "transformers",
    "optimum",
    "nncf",
    "accelerate",
}
LEFT_OUT = {
    "run": {"huggingface-hub", "openvino-telemetry"},
    "build": {"openvino-telemetry", "openvino-tokenizers", "torchvision"},
}


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    marker: Marker | None
    num_hashes: int


def text_of(lock: str) -> str:
    return (REQUIREMENTS / f"{lock}.lock").read_text(encoding="utf-8")


def pins_of(lock: str) -> list[Pin]:
    joined = re.sub(r"\\\n", " ", text_of(lock))
    pins = []
    for line in joined.splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        requirement_text, *hashes = line.split("--hash=sha256:")
        requirement = Requirement(requirement_text)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        pins.append(
            Pin(
                canonicalize_name(requirement.name),
                specifier.version,
                requirement.marker,
                num_hashes=len(hashes),
            )
        )
    return pins


def applicable(lock: str, python: str, machine: str) -> list[Pin]:
    """The lines that pip would follow there."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return [pin for pin in pins_of(lock) if pin.marker is None or pin.marker.evaluate(environment)]


def pinned(lock: str, python: str, machine: str = "x86_64") -> dict[str, str]:
    """Name to version there."""
    return {pin.name: pin.version for pin in applicable(lock, python, machine)}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_exact_and_hashed(lock: str) -> None:
    pins = pins_of(lock)
    assert len(pins) > 10
    assert [pin.name for pin in pins if pin.num_hashes == 0] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_no_place_on_the_machine_that_made_it(lock: str) -> None:
    text = text_of(lock)
    assert "://" not in text
    assert not re.search(r"--(index-url|extra-index-url|find-links|trusted-host)", text)
    assert not re.search(r"(^|\s)/[a-z]", text)
    assert "refresh.sh" in text.splitlines()[1]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("lock", LOCKS)
def test_each_name_has_one_version_and_both_machines_the_same(lock: str, python: str) -> None:
    names = [pin.name for pin in applicable(lock, python, "x86_64")]
    assert sorted(names) == sorted(set(names))
    assert pinned(lock, python, "aarch64") == pinned(lock, python, "x86_64")


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_worlds_share_the_versions_they_share_packages_of(python: str) -> None:
    run, build, test, clients = (
        pinned(lock, python) for lock in ("run", "build", "test", "clients")
    )
    assert {name: build[name] for name in run if name in build} == {
        name: run[name] for name in run if name in build
    }
    assert {name: test.get(name) for name in run} == run
    assert set(clients).isdisjoint(test)  # which its venv sees


def test_the_locks_hold_what_pyproject_asks_for(project: dict[str, Any]) -> None:
    asked = {
        "run": project["project"]["dependencies"] + project["dependency-groups"]["install"],
        "build": project["dependency-groups"]["build"],
        "test": project["project"]["dependencies"] + project["dependency-groups"]["test"],
        "clients": project["dependency-groups"]["clients"],
        "provision": project["dependency-groups"]["provision"],
    }
    for lock, requirements in asked.items():
        for python in ("3.10", "3.13"):
            versions = pinned(lock, python)
            for requirement in map(Requirement, requirements):
                if requirement.marker and not requirement.marker.evaluate(
                    {"python_version": python, "python_full_version": f"{python}.0"}
                ):
                    continue
                version = versions.get(canonicalize_name(requirement.name))
                assert version is not None, f"{lock}.lock has no {requirement}: run refresh.sh"
                assert requirement.specifier.contains(version), f"{lock}.lock: {requirement}"


def test_the_run_world_has_nothing_of_torchs_world() -> None:
    assert TORCH_WORLD.isdisjoint(pin.name for pin in pins_of("run"))
    assert LEFT_OUT["run"].isdisjoint(pin.name for pin in pins_of("run"))


def test_the_build_lock_leaves_torch_apart_and_brings_no_gpu_package() -> None:
    names = {pin.name for pin in pins_of("build")}
    assert names.isdisjoint({"torch"} | LEFT_OUT["build"])
    assert [name for name in names if re.match("nvidia|cuda|triton", name)] == []


def test_torch_is_pinned() -> None:
    (line,) = (REQUIREMENTS / "torch.txt").read_text(encoding="utf-8").split()
    (specifier,) = Requirement(line).specifier
    assert specifier.operator == "==" and Version(specifier.version) > Version("2")


@pytest.fixture
def run_venv() -> Path:
    venv = ROOT / ".venv"
    if not (venv / "stamp").exists():
        pytest.skip("no .venv: ./tests/run.sh or `make install` makes it")
    return venv


def test_the_run_venv_is_small_and_has_no_torch(run_venv: Path) -> None:
    num_bytes = sum(
        path.lstat().st_blocks * 512 for path in run_venv.rglob("*") if not path.is_symlink()
    )
    assert num_bytes < 450e6
    assert list(run_venv.glob("lib/python*/site-packages/torch*")) == []


def test_the_run_venv_has_the_command_and_imports_whole(run_venv: Path) -> None:
    assert (run_venv / "bin" / "qwen-appliance").exists()
    script = (
        "import openvino, tokenizers, litestar, uvicorn, msgspec, numpy, jinja2, yaml, httpx, "
        "uvloop, httptools, appliance, sys; openvino.Core().available_devices; "
        "tokenizers.Tokenizer(tokenizers.models.BPE()); "
        "sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    subprocess.run([run_venv / "bin" / "python", "-I", "-c", script], check=True)


def missing_requirements() -> set[str]:
    """Names that a distribution of this world asks for, on this machine, and does not get."""
    missing = set()
    for distribution in importlib.metadata.distributions():
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                missing.add(canonicalize_name(requirement.name))
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                missing.add(canonicalize_name(requirement.name))
    return missing


def test_the_service_gets_all_it_asks_for_but_what_is_left_out_on_purpose() -> None:
    assert missing_requirements() <= LEFT_OUT["run"]


@pytest.mark.build
def test_torch_and_the_conversion_get_all_they_ask_for_but_what_is_left_out_on_purpose() -> None:
    assert missing_requirements() <= LEFT_OUT["build"]


@pytest.mark.clients
def test_the_clients_get_all_they_ask_for_but_what_is_left_out_on_purpose() -> None:
    assert missing_requirements() <= LEFT_OUT["run"]


@pytest.mark.build
def test_torch_is_the_cpu_build_and_no_gpu_package_is_installed() -> None:
    import torch

    assert torch.version.cuda is None
    names = {
        canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()
    }
    assert [name for name in names if re.match("nvidia|cuda|triton|torchvision", name)] == []
