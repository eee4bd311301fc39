"""What a box is sent: the same checkout makes the same release, and wheels are the lock's."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from provisioning import release

ROOT = Path(__file__).parents[2]


def run(*options: str, cache: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    script = root / "provisioning" / "release.py"
    return subprocess.run(
        [sys.executable, script, "--python", "3.11", "--architecture", "x86_64", *options],
        env={"XDG_CACHE_HOME": str(cache), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def told(*options: str, cache: Path) -> dict[str, Any]:
    ended = run(*options, cache=cache)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_the_same_checkout_makes_the_same_release(tmp_path: Path) -> None:
    first, second = (told(cache=tmp_path / name) for name in ("a", "b"))
    assert first["id"] == second["id"] == told("--describe", cache=tmp_path / "c")["id"]
    assert not (tmp_path / "c").exists()
    contents = [Path(one["archive"]).read_bytes() for one in (first, second)]
    assert contents[0] == contents[1]
    with tarfile.open(first["archive"]) as tar:
        names = tar.getnames()
    assert {"appliance/cli.py", "provisioning/box/__main__.py", release.LOCK} <= set(names)
    assert "systemd/qwen-appliance.service" in names
    assert not [name for name in names if "__pycache__" in name or "tests" in name.split("/")]


def test_what_runs_on_a_box_finds_all_that_it_imports(tmp_path: Path) -> None:
    """Of this project; packages are the lock's."""
    with tarfile.open(told(cache=tmp_path)["archive"]) as tar:
        tar.extractall(tmp_path / "release", filter="data")
    ended = subprocess.run(
        [sys.executable, "-m", "provisioning.box", "roll-back", "--help"],
        cwd=tmp_path / "release",
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_a_digest_tells_contents_and_python(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    digests = {release.digest_of({"file": file}, python) for python in ("3.11", "3.13")}
    file.write_text("b")
    digests |= {release.digest_of({"file": file}, "3.11"), release.digest_of({"f": file}, "3.11")}
    assert len(digests) == 4


def test_wheels_are_those_of_the_lock_for_that_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    hashes = {}
    for name in (
        "one-1.0-py3-none-any.whl",
        "two-2.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "two-2.0-cp313-cp313-manylinux_2_28_x86_64.whl",
        "two-2.0-cp311-cp311-manylinux_2_28_aarch64.whl",
    ):
        (wheels / name).write_text(name)
        hashes[name] = hashlib.sha256(name.encode()).hexdigest()
    lines = [f"    --hash=sha256:{value}" for value in hashes.values()]
    (tmp_path / "lock").write_text(
        f"# made by hand\none==1.0 \\\n{lines[0]}\n    # via nobody\n"
        f"two==2.0 ; python_full_version >= '3.11' \\\n{lines[1]} \\\n{lines[2]} \\\n{lines[3]}\n"
        f"win==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{'0' * 64}\n"
    )
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "LOCK", "lock")
    chosen = release.chosen_wheels(wheels, "3.13", "x86_64")
    names = list(hashes)
    assert [path.name for path in chosen] == [names[0], names[2]]
    (wheels / names[0]).write_text("another file of that name")
    with pytest.raises(release.ReleaseError, match=r"no wheel .* of one==1.0"):
        release.chosen_wheels(wheels, "3.11", "x86_64")


def test_the_pip_of_the_lock_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [hashlib.sha256(content).hexdigest() for content in (b"other", b"pip", b"wheel")]
    lines = [f"    --hash=sha256:{value}" for value in digests]
    (tmp_path / "lock").write_text(
        f"# made by hand\nother==1.0 \\\n{lines[0]}\n    # via nobody\n"
        f"pip==1.0 \\\n{lines[1]} \\\n{lines[2]}\n    # via nobody\n"
    )
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "PROVISION_LOCK", "lock")
    assert release.pip_among(tmp_path) is None
    wheel = tmp_path / "pip-1.0-py3-none-any.whl"
    wheel.write_bytes(b"other")
    assert release.pip_among(tmp_path) is None
    wheel.write_bytes(b"wheel")
    assert release.pip_among(tmp_path) == wheel


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1-cp312-abi3-manylinux_2_17_x86_64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", True),
        ("a-1-cp311-cp311-manylinux_2_17_aarch64.whl", False),
        ("a-1-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("a-1.tar.gz", False),
    ],
)
def test_tags(wheel: str, fits: bool) -> None:
    assert release.fits(wheel, "3.11", "x86_64") is fits


def test_no_wheels_is_one_line(tmp_path: Path) -> None:
    ended = run("--wheels", "/nowhere", cache=tmp_path)
    assert ended.returncode == 1 and ended.stderr == "/nowhere: no such directory of wheels\n"
