from __future__ import annotations

import io
import os
import re
import time

import pytest

from provisioning.build_model import progress as display
from provisioning.build_model.progress import StageProgress, clock, create_progress


def test_plain_lines_say_start_and_end() -> None:
    stream = io.StringIO()
    progress = StageProgress(stream, terminal=False)

    with progress.stage("export"):
        pass
    progress.note("ready")

    lines = stream.getvalue().splitlines()
    assert lines[0] == "export: started"
    assert re.fullmatch(r"export: done in \d\.\d s", lines[1])
    assert lines[2] == "ready"


def test_plain_lines_in_between_tell_share_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_PLAIN_EVERY_S", 0.02)
    monkeypatch.setattr(display, "_REDRAW_S", 0.01)
    stream = io.StringIO()

    with StageProgress(stream, terminal=False).stage("download", unit="bytes") as stage:
        stage.total(4_000_000)
        stage.advance(2_000_000)
        wait_for(stream, r"download: 50% \(2/4 MB\), 0:0\d")

    assert stream.getvalue().count("50%") == 1


def test_terminal_draws_one_line_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_REDRAW_S", 0.01)
    stream = io.StringIO()

    with StageProgress(stream, terminal=True).stage("verify", unit="prompts") as stage:
        stage.total(40)
        stage.advance(20)
        wait_for(stream, r"━{12}─{12}  50%  20/40 prompts  0:0\d")

    assert stream.getvalue().count("\n") == 1
    last = r"\rverify       done  20/40 prompts  0:0\d\x1b\[K\n$"
    assert re.search(last, stream.getvalue())


def test_failing_stage_is_shown_as_failed() -> None:
    stream = io.StringIO()

    with (
        pytest.raises(RuntimeError),
        StageProgress(stream, terminal=False).stage("export"),
    ):
        raise RuntimeError

    assert stream.getvalue().splitlines()[1].startswith("export: failed in")


def test_counts_never_pass_the_whole() -> None:
    stream = io.StringIO()
    with StageProgress(stream, terminal=True).stage("fetch", unit="bytes") as stage:
        stage.total(10)
        stage.advance(25)
    assert "250%" not in stream.getvalue()


def test_stream_that_is_no_terminal_gets_plain_lines() -> None:
    stream = io.StringIO()
    with create_progress(stream).stage("export"):
        pass
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_REDRAW_S", 0.01)
    ours, theirs = os.openpty()
    with (
        open(ours, "rb", buffering=0) as screen,
        open(theirs, "w", encoding="utf-8") as terminal,
        create_progress(terminal).stage("download", unit="bytes") as stage,
    ):
        stage.total(4_000_000)
        stage.advance(1_000_000)
        seen = b""
        while not re.search(r"━{6}─{18}  25%  1/4 MB  0:0\d", seen.decode(errors="ignore")):
            seen += screen.read(4096)
            assert len(seen) < 1 << 16, seen
    assert b"\r" in seen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (42.9, "0:42"), (725, "12:05"), (3723, "1:02:03")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def wait_for(stream: io.StringIO, pattern: str) -> None:
    deadline = time.monotonic() + 10
    while not re.search(pattern, stream.getvalue()):
        assert time.monotonic() < deadline, f"{pattern!r} never came: {stream.getvalue()!r}"
        time.sleep(0.005)
