"""What is in the image, what is not, and as whom it runs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.box.image import LOCK
from tests.container.podman import Podman

# The first one may have to build the image.
pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]

MAX_BYTES = 450_000_000
VENV = "/opt/qwen-appliance/venv"
INSTALLED = """
import importlib.metadata, json
print(json.dumps([d.name.lower().replace("_", "-") for d in importlib.metadata.distributions()]))
"""


@pytest.fixture(scope="module")
def described(podman: Podman, image: str) -> dict[str, Any]:
    (described,) = json.loads(podman("image", "inspect", image).stdout)
    assert isinstance(described, dict)
    return described


def python(podman: Podman, image: str, script: str) -> str:
    options = ("--read-only", "--entrypoint", f"{VENV}/bin/python3")
    code, said = podman.once(image, "-c", script, options=options)
    assert code == 0, said
    return said


def test_it_is_small(described: dict[str, Any]) -> None:
    assert 100_000_000 < described["Size"] <= MAX_BYTES


def test_how_it_is_started_stopped_and_asked(described: dict[str, Any]) -> None:
    config = described["Config"]
    assert config["User"] == "10001:10001"
    # Exec form, so that the service itself gets the signals.
    assert (config["Entrypoint"], config["Cmd"]) == (["qwen-appliance"], ["serve"])
    assert config["StopSignal"] == "SIGTERM"
    assert config["Volumes"] == {"/data": {}}
    assert "8000/tcp" in config["ExposedPorts"]
    assert described["Healthcheck"]["Test"] == ["CMD", "qwen-appliance", "health"]


def test_it_holds_the_lock_s_packages_and_no_others(podman: Podman, image: str) -> None:
    pins = re.findall(r"^([a-z0-9-]+)==[^; ]+ (;?)", LOCK.read_text(), re.M)
    installed = set(json.loads(python(podman, image, INSTALLED)))
    # What made the venv is gone; nothing can be installed into it.
    assert {name for name, condition in pins if not condition} - installed == {"setuptools"}
    assert installed - {name for name, _ in pins} == {"qwen-appliance"}
    assert not {"torch", "transformers", "pip"} & installed


def test_there_is_no_torch_and_nothing_of_the_checkout(podman: Podman, image: str) -> None:
    script = """
import os, shutil
unwanted = {"libtorch.so", "libtorch_cpu.so", "secret.txt", "test_image_content.py", "run.lock"}
kept = (w for top in os.listdir("/") if top not in ("proc", "sys") for w in os.walk("/" + top))
print([d for d, folders, files in kept if unwanted & {*folders, *files}])
print(os.listdir("/model"), os.getuid(), os.getgid(), shutil.which("gcc"), shutil.which("pip"))
"""
    assert python(podman, image, script).splitlines() == [
        "[]",
        "['README.md'] 10001 10001 None None",
    ]


def test_nothing_of_it_is_writable_for_the_service(podman: Podman, image: str) -> None:
    script = f"""
import os
walked = (d for top in ("/opt", "/etc", "/usr", "/model") for d, _, _ in os.walk(top))
print([d for d in walked if os.access(d, os.W_OK)])
print(os.access("{VENV}/bin/qwen-appliance", os.W_OK), os.access("/data", os.W_OK))
"""
    # With a writable root file system, so that only permissions are asked.
    code, said = podman.once(image, "-c", script, options=("--entrypoint", f"{VENV}/bin/python3"))
    assert (code, said) == (0, "[]\nFalse True")
