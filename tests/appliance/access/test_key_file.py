"""The file of API keys: what is in it, who may read it, what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from appliance.access.key_file import KeyRecord, digest_of, make_key, read_keys, write_keys

RECORDS = [KeyRecord("laptop", "a" * 64, "2026-01-02"), KeyRecord("open-webui.1", "b" * 64, "")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    write_keys(path, RECORDS)
    assert read_keys(path) == RECORDS
    write_keys(path, [])
    assert read_keys(path) == []
    assert os.listdir(tmp_path) == ["api-keys"]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    path.touch(0o666)
    path.chmod(0o666)
    write_keys(path, RECORDS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_it_stays_its_owners_when_root_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    path.touch()
    os.chown(path, 1234, 2345)
    write_keys(path, RECORDS)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    write_keys(path, RECORDS)
    with pytest.raises(UnicodeEncodeError):
        write_keys(path, [KeyRecord("\ud800", "a" * 64, "")])
    assert read_keys(path) == RECORDS
    assert os.listdir(tmp_path) == ["api-keys"]


def test_a_new_key_is_long_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    (key, record), (other, _) = make_key("a"), make_key("a")
    assert key.startswith("sk-") and len(key) >= 46 and key != other
    assert record.digest == digest_of(key)
    write_keys(tmp_path / "api-keys", [record])
    assert key not in (tmp_path / "api-keys").read_text()


def test_comments_and_empty_lines_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "api-keys"
    path.write_text(f"# mine\n\n  \nlaptop sha256:{'a' * 64} 2026-01-02\n")
    assert read_keys(path) == RECORDS[:1]


@pytest.mark.parametrize(
    "line",
    [
        "sk-plaintext",
        "laptop sk-plaintext",
        f"laptop sha256:{'a' * 63}",
        f"laptop sha256:{'A' * 64}",
        f"lap/top sha256:{'a' * 64}",
        f"laptop sha256:{'a' * 64} 2026-01-02 more",
        f"other sha256:{'a' * 64}",
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "api-keys"
    path.write_text(f"other sha256:{'b' * 64}\n{line}\n")
    with pytest.raises(ValueError, match="line 2") as caught:
        read_keys(path)
    assert "plaintext" not in str(caught.value)
