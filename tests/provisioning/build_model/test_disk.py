from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.build_model.disk import check_free, check_output, needed_bytes
from provisioning.build_model.errors import DiskError
from tests import tiny_model


def test_both_sizes_are_named_when_the_disk_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"building m needs 3\.2 GB, 1\.0 GB are free"):
        check_free(tmp_path, 3_200_000_000, "building m", free=1_000_000_000)


def test_enough_room_is_silent(tmp_path: Path) -> None:
    check_free(tmp_path, 10, "building m", free=10)


def test_real_file_system_is_asked(tmp_path: Path) -> None:
    check_free(tmp_path, 1, "building m")
    with pytest.raises(DiskError):
        check_free(tmp_path, 1 << 60, "building m")


def test_need_covers_source_export_and_ir() -> None:
    one_gb = 1 << 30
    assert needed_bytes(one_gb) >= 2.5 * one_gb


def test_what_is_only_linked_needs_no_room_itself_but_its_export_does() -> None:
    one_gb = 1 << 30
    assert needed_bytes(one_gb) - needed_bytes(0, one_gb) == one_gb
    assert needed_bytes(0, one_gb) >= 1.5 * one_gb


def test_missing_parents_are_made_and_nothing_is_left_there(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "model")

    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DiskError, match="cannot write into"):
        check_output(tmp_path / "file" / "model")


def test_somebodys_directory_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")

    with pytest.raises(DiskError, match="no model directory"):
        check_output(tmp_path / "photos")


def test_file_at_the_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")

    with pytest.raises(DiskError, match="no directory"):
        check_output(tmp_path / "model")


def test_empty_directory_and_model_directory_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    check_output(tiny_model.make(tmp_path / "model"))
