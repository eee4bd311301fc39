from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.model_dir import read_manifest
from provisioning.build_model.cli import parse, summary
from tests import tiny_model

REPOSITORY = Path(__file__).parents[3]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provisioning.build_model", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
    )


def test_defaults(tmp_path: Path) -> None:
    order = parse(["--out", str(tmp_path / "model")])

    assert order.spec == "hf:Qwen/Qwen2.5-0.5B-Instruct"
    assert (order.precision, order.name) == ("int8", None)
    assert order.out == tmp_path / "model"


def test_output_behind_a_link_is_the_directory_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert parse(["--out", str(tmp_path / "link")]).out == tmp_path / "real"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--source", "ftp:x"], 2, "'ftp:x'"),
        (["--precision", "int3"], 2, "invalid choice"),
        (["--name", ""], 2, "--name is empty"),
        (["--source", "dir:/nowhere/at/all"], 11, "/nowhere/at/all"),
    ],
)
def test_wrong_use_ends_with_its_code_and_one_line(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    ended = command("--out", str(tmp_path / "model"), *arguments)

    assert ended.returncode == code
    assert said in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_summary_says_what_was_published_and_what_it_took(tmp_path: Path) -> None:
    directory = tiny_model.make(tmp_path / "tiny")

    line = summary(directory, read_manifest(directory), 125.0)

    assert "\n" not in line
    assert "took 2:05" in line
    assert "GB of memory" in line
    assert line.endswith(f"-> {directory}")
