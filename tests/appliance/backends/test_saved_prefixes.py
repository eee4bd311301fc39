"""Known prefixes survive a restart; what is wrong with the files costs them and nothing else."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.backends.base import Slot
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.block_pool import BLOCK_SIZE
from appliance.backends.prefix_files import PrefixFiles
from appliance.backends.saved_prefixes import SavedBlocks, _state_dir

NUM_BLOCKS = 12
TEXT = [*range(100, 100 + 2 * BLOCK_SIZE), 7, 8, 9]


class Box:
    """A pool whose "KV" of a block are numbers made of its text; what a restart finds is new."""

    def __init__(self, directory: Path, key: str = "model A", max_blocks: int = NUM_BLOCKS) -> None:
        self.kv = BlockKVCache(
            num_blocks=NUM_BLOCKS, max_slots=4, max_model_len=1000, bytes_per_block=1
        )
        self.arrays: tuple[NDArray[Any], ...] = (
            np.zeros((NUM_BLOCKS, 3, BLOCK_SIZE), np.uint8),
            np.zeros((NUM_BLOCKS, BLOCK_SIZE), np.float32),
        )
        self.now = 0.0
        block_bytes = sum(array[0].nbytes for array in self.arrays)
        self.saved = SavedBlocks(
            self.kv,
            self.arrays,
            PrefixFiles(directory, key),
            max_bytes=max_blocks * block_bytes,
            interval_s=60,
            clock=lambda: self.now,
        )
        self.saved.restore()
        self.kv.check_integrity()

    def say(self, token_ids: list[int], *, end: bool = True) -> tuple[Slot, int]:
        """Run a text; its slot, and how many of its tokens were known."""
        allocation = self.kv.allocate([*token_ids, 0])
        assert allocation is not None
        slot, start = allocation.slot, allocation.num_cached_tokens
        for source, target in self.kv.take_copies():
            for array in self.arrays:
                array[target] = array[source]
        assert self.kv.reserve(slot, len(token_ids) - start)
        table = self.kv.block_indices(slot)
        for position in range(start, len(token_ids)):
            block, offset = table[position // BLOCK_SIZE], position % BLOCK_SIZE
            self.arrays[0][block, :, offset] = token_ids[position] % 251
            self.arrays[1][block, offset] = sum(token_ids[: position + 1])
        self.kv.commit(slot, token_ids[start:])
        self.check(slot, token_ids)
        if end:
            self.kv.free(slot, keep_prefix=True)
        return slot, start

    def check(self, slot: Slot, token_ids: list[int]) -> None:
        """The KV of every token, computed or restored, is what the text makes it."""
        for position in range(len(token_ids)):
            block = self.kv.block_indices(slot)[position // BLOCK_SIZE]
            offset = position % BLOCK_SIZE
            assert self.arrays[1][block, offset] == sum(token_ids[: position + 1])
            assert (self.arrays[0][block, :, offset] == token_ids[position] % 251).all()

    def restarted(self, directory: Path, **changes: Any) -> Box:
        self.saved.close()
        return Box(directory, **changes)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "kv"


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged at warning level or above."""
    caplog.set_level(logging.WARNING)
    return lambda: caplog.messages


def block_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.block"))


def test_what_was_said_is_known_after_a_restart(directory: Path) -> None:
    box = Box(directory)
    box.say(TEXT)
    box.say([*TEXT[:40], 1, 2, 3])
    box = box.restarted(directory)
    assert box.say(TEXT)[1] == len(TEXT)
    assert box.say([*TEXT[:40], 1, 2, 3, 4])[1] == 43
    assert box.restarted(directory).say([*TEXT, 5, 6])[1] == len(TEXT)


def test_a_text_that_is_still_running_is_saved_too(directory: Path) -> None:
    box = Box(directory)
    box.say(TEXT, end=False)
    assert box.restarted(directory).say([*TEXT, 1])[1] == len(TEXT)


def test_saving_comes_with_the_interval_and_only_for_something_new(directory: Path) -> None:
    box = Box(directory)
    box.say(TEXT)
    box.now = 59
    box.saved.save_if_due()
    assert not directory.exists()
    box.now = 61
    box.saved.save_if_due()
    box.saved._wait()
    assert len(block_files(directory)) == 3
    before = (directory / "index.json").stat().st_mtime_ns
    box.now = 200
    box.saved.save_if_due()
    box.saved.close()
    assert (directory / "index.json").stat().st_mtime_ns == before


def test_a_block_on_disk_is_not_written_again_and_one_not_wanted_goes(directory: Path) -> None:
    box = Box(directory)
    box.say(TEXT)
    box = box.restarted(directory)
    before = {path.name: path.stat().st_ino for path in block_files(directory)}
    box.say([*TEXT, 10, 11])
    box.saved.close()
    after = {path.name: path.stat().st_ino for path in block_files(directory)}
    assert len(after) == 4, "the copied block is beside the one it was copied from"
    assert before.items() <= after.items()
    small = Box(directory, max_blocks=2)
    small.say([1, 2, 3])
    small.saved.close()
    assert len(block_files(directory)) == 2


def test_the_last_used_are_kept_and_with_them_their_beginnings(directory: Path) -> None:
    box = Box(directory, max_blocks=4)
    box.say(TEXT)
    box.say([1] * 40)
    box = box.restarted(directory)
    assert box.say([1] * 40)[1] == 40
    assert box.say(TEXT)[1] == 2 * BLOCK_SIZE


def test_a_smaller_pool_takes_what_fits(directory: Path) -> None:
    box = Box(directory)
    box.say(TEXT)
    box.saved.close()
    box = Box(directory)
    box.kv = BlockKVCache(num_blocks=2, max_slots=1, max_model_len=64, bytes_per_block=1)
    saved = SavedBlocks(
        box.kv, box.arrays, PrefixFiles(directory, "model A"), max_bytes=10**6, interval_s=60
    )
    saved.restore()
    box.kv.check_integrity()
    assert box.kv.stats().num_tokens == 2 * BLOCK_SIZE


def test_only_the_user_may_read_what_was_said(directory: Path) -> None:
    box = Box(directory)
    box.say(TEXT)
    box.saved.close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_another_model_s_files_are_ignored_in_one_line(
    directory: Path, warnings: Callable[[], list[str]]
) -> None:
    box = Box(directory)
    box.say(TEXT)
    box = box.restarted(directory, key="model B")
    assert box.say(TEXT)[1] == 0
    (line,) = warnings()
    assert "another model, OpenVINO or precision: ignored" in line
    assert box.restarted(directory, key="model B").say(TEXT)[1] == len(TEXT)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def other_text(path: Path) -> None:
    """A whole file, whose name tells other tokens than it holds."""
    head, _, data = path.read_bytes().partition(b"\n")
    fields = json.loads(head)
    fields["token_ids"][0] += 1
    path.write_bytes(json.dumps(fields).encode() + b"\n" + data)


@pytest.mark.parametrize(
    "harm",
    [flip_a_byte, cut_short, other_text, Path.unlink, lambda path: path.write_bytes(b"\xff\n")],
)
def test_a_damaged_block_costs_itself_and_what_is_behind_it(
    directory: Path, warnings: Callable[[], list[str]], harm: Any
) -> None:
    box = Box(directory)
    box.say(TEXT)
    box.say([1, 2, 3])
    box.saved.close()
    second = next(
        path for path in block_files(directory) if b'"token_ids": [132,' in path.read_bytes()
    )
    harm(second)
    box = Box(directory)
    (line,) = warnings()
    assert "2 of the saved prefixes" in line and str(directory) in line
    assert box.say(TEXT)[1] == BLOCK_SIZE
    assert box.say([1, 2, 3])[1] == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1, "key": "model A"}', b"\xff"])
def test_a_damaged_index_costs_all_and_is_not_fatal(
    directory: Path, warnings: Callable[[], list[str]], content: bytes
) -> None:
    box = Box(directory)
    box.say(TEXT)
    box.saved.close()
    (directory / "index.json").write_bytes(content)
    box = Box(directory)
    assert len(warnings()) == 1
    assert box.say(TEXT)[1] == 0
    assert box.restarted(directory).say(TEXT)[1] == len(TEXT)


def test_a_file_in_the_way_is_told_and_done_without(
    directory: Path, warnings: Callable[[], list[str]]
) -> None:
    directory.parent.mkdir()
    directory.write_text("in the way")
    box = Box(directory)
    box.say(TEXT)
    box.saved.close()
    assert "prefixes cannot be saved" in warnings()[-1]
    assert box.say(TEXT)[1] == len(TEXT), "the service goes on"


def test_a_full_disk_leaves_what_was_saved(
    directory: Path, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(directory)
    box.say(TEXT)
    box = box.restarted(directory)
    box.say([5] * 100)

    class FullDisk:
        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_on_a_full_disk(descriptor: int, mode: str) -> FullDisk:
        os.close(descriptor)
        return FullDisk()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", open_on_a_full_disk)
        box.saved.close()
    (line,) = warnings()
    assert "No space left on device" in line
    assert not list(directory.glob("*.tmp"))
    assert Box(directory).say(TEXT)[1] == len(TEXT)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(None, None), ("", None), ("/var/lib/a", Path("/var/lib/a")), ("/x:/y", Path("/x"))],
)
def test_the_unit_s_state_directory_is_the_default(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: Path | None
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    if variable is not None:
        monkeypatch.setenv("STATE_DIRECTORY", variable)
    assert _state_dir() == expected
