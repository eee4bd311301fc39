"""Making a bundle: the same bytes for the same files, everything for its targets, or an error."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.bundle.checkout import code_files
from provisioning.bundle.errors import BundleError
from provisioning.bundle.make import Order, make
from provisioning.bundle.target import Target, parse_targets, this_machine
from provisioning.bundle.wheels import pins_of
from tests.provisioning.bundle.tiny_checkout_bundle import HERE, TAG, Ground, lay

ROOT = Path(__file__).resolve().parents[3]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return lay(tmp_path)


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True)


def test_what_is_in_it_and_in_which_order(ground: Ground, tmp_path: Path) -> None:
    with tarfile.open(ground.make(tmp_path / "b.tar")) as archive:
        names = archive.getnames()
        first = archive.extractfile("bundle.json")
        assert first is not None
        contents = json.load(first)["contents"]
        script = archive.getmember("qwen-appliance/provisioning/provision.sh")
    assert names[0] == "bundle.json"
    code = [name for name in names if name.startswith("qwen-appliance/")]
    assert code == sorted(code) and r"qwen-appliance/run-qwen\x2dappliance.mount" in code
    assert not [name for name in code if "__pycache__" in name]
    pip = next(ground.index.glob("pip-*")).name
    assert names[1 + len(code) :] == [
        f"wheels/run/fast-1.0-{TAG}-{TAG}-manylinux_2_17_{HERE.architecture}.whl",
        f"wheels/run/{pip}",
        "wheels/run/plain-1.0-py3-none-any.whl",
        f"wheels/provision/{pip}",
        "wheels/provision/play-1.0-py3-none-any.whl",
        "model/tiny/manifest.json",
        "model/tiny/chat_template.jinja",
        "model/tiny/openvino_model.bin",
        "model/tiny/openvino_model.xml",
        "model/tiny/tokenizer.json",
    ]
    assert set(contents["files"]) == set(names[1:])
    assert (script.mode, script.uid, script.uname) == (0o755, 0, "")


def test_the_same_files_are_the_same_bundle(ground: Ground, tmp_path: Path) -> None:
    first = ground.make(tmp_path / "first.tar").read_bytes()
    shutil.copytree(ground.checkout, tmp_path / "copied", copy_function=shutil.copy)
    again = Ground(tmp_path / "copied", ground.index, ground.model_dir)
    assert again.make(tmp_path / "second.tar").read_bytes() == first


def test_what_it_says_can_be_typed(ground: Ground, tmp_path: Path) -> None:
    made = ground.run("make", tmp_path / "b.tar", "--model-dir", ground.model_dir)
    assert "tar -xf b.tar qwen-appliance\n" in made.stdout
    digest = subprocess.run(["sha256sum", tmp_path / "b.tar"], capture_output=True, text=True)
    assert f"sha256 {digest.stdout.split()[0]}\n" in made.stdout


def test_a_wheel_that_a_target_lacks_is_named(ground: Ground, tmp_path: Path) -> None:
    other = next(name for name in ("x86_64", "aarch64") if name != HERE.architecture)
    made = ground.run(
        "make", tmp_path / "b.tar", "--model-dir", ground.model_dir, "--bundle-arch", other
    )
    assert made.returncode == 1
    assert f"fast==1.0 has no wheel for Python {HERE.python} on {other} with glibc" in made.stderr
    assert [path.name for path in tmp_path.iterdir() if "b.tar" in path.name] == []


def test_a_wheel_with_another_checksum_is_refused(ground: Ground, tmp_path: Path) -> None:
    with next(ground.index.glob("plain*")).open("ab") as wheel:
        wheel.write(b"x")
    made = ground.run("make", tmp_path / "b.tar", "--model-dir", ground.model_dir)
    assert made.returncode == 1 and "HASHES" in made.stderr
    assert not (tmp_path / "b.tar").exists()


def test_a_model_that_is_not_whole_is_refused(ground: Ground, tmp_path: Path) -> None:
    model = ground.model_dir / "openvino_model.bin"
    model.write_bytes(b"\xff" * model.stat().st_size)
    made = ground.run("make", tmp_path / "b.tar", "--model-dir", ground.model_dir)
    assert made.returncode == 1 and "openvino_model.bin has another sha256" in made.stderr


def test_without_a_model_it_takes_the_only_one(ground: Ground, tmp_path: Path) -> None:
    made = ground.run("make", tmp_path / "b.tar")
    assert made.returncode == 1 and "which model? --model-dir DIR" in made.stderr
    shutil.copytree(ground.model_dir, ground.checkout / "models/only")
    made = ground.run("make", tmp_path / "b.tar")
    assert made.returncode == 0 and "with only\n" in made.stdout


def test_a_disk_that_is_too_small(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", ground.index.as_uri())
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10, 9, 1))
    out = tmp_path / "b.tar"
    out.write_text("an earlier one")
    order = Order(out, ground.checkout, ground.model_dir, (this_machine(),))
    with pytest.raises(BundleError, match="0 MB are free"):
        make(order, lambda text: None)
    assert out.read_text() == "an earlier one"


@pytest.mark.parametrize("lock", ["run", "provision"])
def test_pins_are_those_of_the_target(lock: str) -> None:
    """Not of the Python that asks: `exceptiongroup` and ansible-core differ between them."""
    path = ROOT / "provisioning/requirements" / f"{lock}.lock"
    old, new = (
        {pin.name: pin.version for pin in pins_of(path, Target(python, "x86_64"))}
        for python in ("3.10", "3.13")
    )
    assert old["typing-extensions"] and "colorama" not in old and "tzdata" not in new
    if lock == "run":
        assert "exceptiongroup" in old and "exceptiongroup" not in new
        assert old["numpy"] != new["numpy"]
    else:
        assert old["ansible-core"] != new["ansible-core"]


def test_targets() -> None:
    assert parse_targets(None, None) == (this_machine(),)
    assert parse_targets("3.13,3.11", "x86_64,aarch64") == (
        Target("3.11", "aarch64"),
        Target("3.11", "x86_64"),
        Target("3.13", "aarch64"),
        Target("3.13", "x86_64"),
    )
    with pytest.raises(BundleError, match=r"Python '3.9': expected one or more of 3.10, "):
        parse_targets("3.9", None)
    with pytest.raises(BundleError, match="architecture 'armv7l'"):
        parse_targets(None, "armv7l")


@pytest.fixture
def known_to_git(ground: Ground) -> Iterator[Path]:
    git(ground.checkout, "init", "-q")
    git(ground.checkout, "add", ".")
    yield ground.checkout


def test_code_is_what_git_knows_as_it_is_now(known_to_git: Path) -> None:
    (known_to_git / "a note of mine").touch()
    (known_to_git / "pyproject.toml").unlink()
    names = code_files(known_to_git)
    assert "a note of mine" not in names and "pyproject.toml" not in names
    assert "provisioning/bundle/cli.py" in names


def test_code_without_git_is_the_same(known_to_git: Path) -> None:
    known = code_files(known_to_git)
    shutil.rmtree(known_to_git / ".git")
    for made in (".venv/bin/python", ".bundle/x", "models/m/x", "appliance/__pycache__/a.pyc"):
        (known_to_git / made).parent.mkdir(parents=True, exist_ok=True)
        (known_to_git / made).touch()
    assert code_files(known_to_git) == known


def test_code_that_is_a_link_is_refused(ground: Ground) -> None:
    (ground.checkout / "link").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="no plain file"):
        code_files(ground.checkout)
