from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provisioning.build_model.errors import BuildError
from provisioning.build_model.workspace import Workspace, key_of, open_workspace, workspace_of


class Maker:
    """Makes a stage's file and counts how often it had to; fails first if told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.calls = 0
        self.found: list[str] = []
        self._fails = fails

    def __call__(self, directory: Path) -> dict[str, int]:
        self.calls += 1
        self.found = sorted(path.name for path in directory.iterdir())
        (directory / f"part{self.calls}").write_text("x")
        if self._fails and self.calls == 1:
            raise RuntimeError("interrupted")
        return {"calls": self.calls}


def test_finished_stage_is_not_repeated(tmp_path: Path) -> None:
    make = Maker()
    with open_workspace(tmp_path / "out") as workspace:
        first = workspace.run("export", "key", make)
    with open_workspace(tmp_path / "out") as workspace:
        second = workspace.run("export", "key", make)

    assert first == second == {"calls": 1}
    assert make.calls == 1


def test_other_inputs_repeat_the_stage_in_an_empty_directory(tmp_path: Path) -> None:
    make = Maker()
    with open_workspace(tmp_path / "out") as workspace:
        workspace.run("export", key_of("rev1", {"a": 1}), make)
        workspace.run("export", key_of("rev1", {"a": 2}), make)

    assert make.calls == 2
    assert make.found == []


def test_interrupted_stage_continues_with_what_is_there(tmp_path: Path) -> None:
    make = Maker(fails=True)
    with pytest.raises(RuntimeError), open_workspace(tmp_path / "out") as workspace:
        workspace.run("fetch", "key", make)
    with open_workspace(tmp_path / "out") as workspace:
        assert not workspace.is_complete("fetch", "key")
        workspace.run("fetch", "key", make)
        assert workspace.is_complete("fetch", "key")

    assert make.found == ["part1"]


def test_discarded_stage_gives_back_its_room(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "out") as workspace:
        workspace.run("export", "key", Maker())
        workspace.discard("export")

        assert not workspace.directory("export").exists()
        assert not workspace.is_complete("export", "key")


def test_second_build_into_the_same_output_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hold = (
        "import sys, pathlib\n"
        "from provisioning.build_model.workspace import open_workspace\n"
        "with open_workspace(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(BuildError, match=rf"another build into .* \(process {holder.pid}\)"),
        open_workspace(out),
    ):
        pytest.fail("two builds hold the same work directory")
    with open_workspace(tmp_path / "other"):
        pass
    holder.communicate()
    with open_workspace(out):
        pass


def test_removed_work_directory_can_be_made_again(tmp_path: Path) -> None:
    for _ in range(2):
        with open_workspace(tmp_path / "out") as workspace:
            workspace.run("export", "key", Maker())
            workspace.remove()
        assert not workspace_of(tmp_path / "out").exists()


def test_build_that_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_workspace(tmp_path / "out"):
        raise RuntimeError("refused before the first stage")

    assert list(tmp_path.iterdir()) == []


def test_stamp_that_is_no_json_counts_as_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.run("export", "key", Maker())
    (tmp_path / "export.json").write_text('{"key": "k')

    assert not workspace.is_complete("export", "key")
