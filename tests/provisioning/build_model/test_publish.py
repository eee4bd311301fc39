from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from provisioning.build_model import publish as publishing
from provisioning.build_model.errors import DiskError
from provisioning.build_model.publish import complete_publication, exchange, previous_of, publish
from tests import tiny_model


def directory(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


def content(path: Path) -> str:
    return (path / "file").read_text()


def test_first_model_is_moved_into_place(tmp_path: Path) -> None:
    publish(directory(tmp_path / "work" / "finished", "new"), tmp_path / "out")

    assert content(tmp_path / "out") == "new"
    assert not previous_of(tmp_path / "out").exists()
    assert not (tmp_path / "work" / "finished").exists()


def test_replaced_model_is_kept_and_the_one_before_it_goes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in ("1", "2", "3"):
        publish(directory(tmp_path / "work" / "finished", number), out)

    assert content(out) == "3"
    assert content(previous_of(out)) == "2"
    assert list((tmp_path / "work").iterdir()) == []


def test_two_renames_do_where_exchanging_is_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "exchange", lambda one, other: False)
    out = directory(tmp_path / "out", "old")

    publish(directory(tmp_path / "work" / "finished", "new"), out)

    assert content(out) == "new"
    assert content(previous_of(out)) == "old"


def test_failed_second_rename_puts_the_old_model_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(one: Path, other: Path) -> bool:
        (one / "file").unlink()
        one.rmdir()
        return False

    monkeypatch.setattr(publishing, "exchange", vanish)
    out = directory(tmp_path / "out", "old")

    with pytest.raises(DiskError, match="cannot publish"):
        publish(directory(tmp_path / "work" / "finished", "new"), out)
    assert content(out) == "old"


def test_exchange_swaps_in_one_call_or_says_it_cannot(tmp_path: Path) -> None:
    one, other = directory(tmp_path / "one", "1"), directory(tmp_path / "other", "2")

    swapped = exchange(one, other)

    assert (content(one), content(other)) == (("2", "1") if swapped else ("1", "2"))


def test_exchange_with_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        exchange(directory(tmp_path / "one", "1"), tmp_path / "missing")


def test_reader_never_finds_the_path_empty(tmp_path: Path) -> None:
    out = directory(tmp_path / "out", "0")
    if not exchange(out, directory(tmp_path / "probe", "0")):
        pytest.skip("this file system cannot exchange two directories")
    watch = (
        "import sys, pathlib\n"
        "path = pathlib.Path(sys.argv[1]) / 'file'\n"
        "print('ready', flush=True)\n"
        "while (text := path.read_text()) != 'end': pass\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", watch, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    for text in [str(number) for number in range(60)] + ["end"]:
        publish(directory(tmp_path / "work" / "finished", text), out)

    _, errors = reader.communicate(timeout=30)

    assert (reader.returncode, errors) == (0, "")


def test_publication_killed_after_the_exchange_is_completed(tmp_path: Path) -> None:
    out = tiny_model.make(tmp_path / "out")
    replaced = tiny_model.make(tmp_path / "work" / "finished")
    set_created(replaced, "2020-01-01T00:00:00+00:00")

    assert complete_publication(replaced, out)
    assert '"2020-01-01' in (previous_of(out) / "manifest.json").read_text()
    assert not complete_publication(replaced, out)


def test_newer_model_waiting_in_the_work_directory_is_left_alone(tmp_path: Path) -> None:
    out = tiny_model.make(tmp_path / "out")
    waiting = tiny_model.make(tmp_path / "work" / "finished")
    set_created(waiting, "2999-01-01T00:00:00+00:00")

    assert not complete_publication(waiting, out)
    assert waiting.exists()
    assert not previous_of(out).exists()


def set_created(model: Path, when: str) -> None:
    data = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps({**data, "created": when}))
