"""Staging: what is served afterwards, and what is said of a model that is not fit for it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.errors import ModelDirError
from appliance.model_dir import (
    CHAT_TEMPLATE,
    MANIFEST,
    MODEL_BIN,
    MODEL_XML,
    TOKENIZER,
    read_manifest,
    verify_files,
)
from appliance.stage.staging import Staged, stage
from tests import tiny_model


def plenty() -> int:
    return 1 << 40


def little() -> int:
    return 100 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.make(tmp_path / "models" / "tiny")


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "ram"


def staged(model: Path, to: Path, memory_bytes: Callable[[], int] = plenty) -> Staged:
    return stage(model, to, memory_bytes=memory_bytes)


def corrupt(model: Path, name: str = MODEL_BIN) -> None:
    """Flip one bit; the size stays."""
    data = bytearray((model / name).read_bytes())
    data[len(data) // 2] ^= 1
    (model / name).write_bytes(data)


def served(to: Path) -> Path:
    """What `current` leads to, after a check of every file."""
    directory = (to / "current").resolve()
    verify_files(directory, read_manifest(directory), checksums=True)
    return directory


def entries(to: Path) -> list[str]:
    return sorted(re.sub("-[0-9a-f]{12}$", "-DIGEST", path.name) for path in to.iterdir())


def test_a_copy_is_what_is_served(model: Path, to: Path) -> None:
    os.utime(model / MODEL_BIN, ns=(1, 1_700_000_000_123_456_789))
    (model / MODEL_XML).chmod(0o600)
    result = staged(model, to)
    directory = served(to)
    assert (result.directory, result.no_copy_because, result.refused) == (directory, None, ())
    assert directory.parent == to
    assert {path.name for path in directory.iterdir()} == {
        *(MODEL_XML, MODEL_BIN, TOKENIZER, CHAT_TEMPLATE, MANIFEST)
    }
    assert (directory / MANIFEST).read_bytes() == (model / MANIFEST).read_bytes()
    # OpenVINO finds what it compiled by path and time.
    assert (directory / MODEL_BIN).stat().st_mtime_ns == 1_700_000_000_123_456_789
    # Others than who built it can read it, and nobody by mistake change it.
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o444}
    assert entries(to) == ["current", "tiny-DIGEST"]


def test_the_same_model_again_is_checked_and_kept(model: Path, to: Path) -> None:
    first = staged(model, to).directory
    inode = first.stat().st_ino
    assert staged(model, to).directory == first
    assert first.stat().st_ino == inode
    (first / MODEL_BIN).chmod(0o600)
    corrupt(first)
    assert staged(model, to).directory == first
    assert served(to).stat().st_ino != inode


def test_another_model_takes_its_place_and_the_old_copy_goes(
    model: Path, to: Path, tmp_path: Path
) -> None:
    staged(model, to)
    other = tiny_model.make(tmp_path / "models" / "other", generation_defaults={"top_p": 0.5})
    (to / ".partial").mkdir()
    (to / ".partial" / "left").write_text("by a run that was killed")
    (to / "something of somebody else").mkdir()
    staged(other, to)
    assert served(to).name.startswith("other-")
    assert entries(to) == ["current", "other-DIGEST", "something of somebody else"]


@pytest.mark.parametrize("name", [MODEL_BIN, MODEL_XML, TOKENIZER, CHAT_TEMPLATE])
def test_a_flipped_bit_is_refused_and_the_file_named(model: Path, to: Path, name: str) -> None:
    corrupt(model, name)
    with pytest.raises(ModelDirError, match=f"{re.escape(str(model))}: {name} has another sha256"):
        staged(model, to)
    assert not (to / "current").exists()
    assert entries(to) in ([], [".partial"])


def test_a_refused_model_leaves_what_was_staged(model: Path, to: Path) -> None:
    before = staged(model, to).directory
    (model / MANIFEST).write_text(
        (model / MANIFEST).read_text().replace("2026-01-01", "2026-01-02"), encoding="utf-8"
    )
    corrupt(model)
    with pytest.raises(ModelDirError):
        staged(model, to)
    assert served(to) == before


def test_the_previous_model_is_staged_instead(model: Path, to: Path) -> None:
    previous = model.with_name("tiny.previous")
    shutil.copytree(model, previous)
    corrupt(model, TOKENIZER)
    result = staged(model, to)
    assert result.model_dir == previous
    (refused,) = result.refused
    assert TOKENIZER in str(refused) and str(model) in str(refused)
    assert served(to).name.startswith("tiny.previous-")


def test_both_models_at_fault(model: Path, to: Path) -> None:
    shutil.copytree(model, model.with_name("tiny.previous"))
    corrupt(model, TOKENIZER)
    corrupt(model.with_name("tiny.previous"), MODEL_BIN)
    with pytest.raises(ModelDirError, match=TOKENIZER):
        staged(model, to)


def test_a_model_that_is_gone_but_for_the_previous_one(model: Path, to: Path) -> None:
    model.rename(model.with_name("tiny.previous"))
    assert staged(model, to).model_dir.name == "tiny.previous"


def test_without_memory_the_disk_serves(model: Path, to: Path) -> None:
    result = staged(model, to, little)
    assert result.directory == model == served(to)
    assert "100 MiB are available" in (result.no_copy_because or "")
    assert entries(to) == ["current"]
    corrupt(model)
    with pytest.raises(ModelDirError, match="sha256"):
        staged(model, to, little)


def test_a_link_to_the_models_directory_is_followed(model: Path, to: Path) -> None:
    link = model.with_name("chosen")
    link.symlink_to("tiny")
    staged(link, to)
    assert served(to).name.startswith("tiny-")


def test_a_name_that_leads_elsewhere_is_refused(model: Path, to: Path) -> None:
    text = (model / MANIFEST).read_text(encoding="utf-8")
    (model.parent / "outside").write_bytes(b"x")
    text = text.replace('"files": {', '"files": {"../outside": {"sha256": "0", "size_bytes": 1},')
    (model / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(ModelDirError, match=r"'\.\./outside', which is no file name"):
        staged(model, to)


def test_a_place_that_cannot_be_written_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelDirError, match=r"file/ram: cannot stage there: "):
        staged(model, tmp_path / "file" / "ram")


Capture = pytest.CaptureFixture[str]


def test_the_command_says_what_is_served(model: Path, to: Path, capsys: Capture) -> None:
    assert main(["stage", "--model", str(model), "--to", str(to)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    (line,) = captured.out.splitlines()
    assert line.startswith(f"{to}/current is {model}, 0 MB, every sha256 right, ")


def test_the_command_only_checks_if_told_so(model: Path, to: Path, capsys: Capture) -> None:
    assert main(["stage", "--model", str(model), "--to", str(to), "--no-copy"]) == 0
    assert "not copied: told not to" in capsys.readouterr().out
    assert served(to) == model


def test_the_command_names_the_model_it_refused(model: Path, to: Path, capsys: Capture) -> None:
    shutil.copytree(model, model.with_name("tiny.previous"))
    corrupt(model)
    assert main(["stage", "--model", str(model), "--to", str(to)]) == 0
    captured = capsys.readouterr()
    assert MODEL_BIN in captured.err and "the previous model takes its place" in captured.err
    assert "tiny.previous" in captured.out


def test_the_command_fails_as_serve_does(model: Path, to: Path, capsys: Capture) -> None:
    corrupt(model)
    assert main(["stage", "--model", str(model), "--to", str(to)]) == 3
    assert MODEL_BIN in capsys.readouterr().err
    assert main(["stage", "--to", str(to)]) == 2
    assert "model.dir" in capsys.readouterr().err
