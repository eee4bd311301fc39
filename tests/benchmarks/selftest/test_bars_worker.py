"""The line protocol, against a worker that follows a script."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.harness.fleet import Fleet, Side, UnavailableError
from tests.benchmarks.harness.turns import take_turns
from tests.benchmarks.harness.worker import Worker, WorkerError, request
from tests.benchmarks.selftest.scripted_side import SCRIPT, scripted


def start(tmp_path: Path, *options: str, start_timeout_s: float = 30) -> Worker:
    command = (sys.executable, SCRIPT, *options)
    return Worker(command, log=tmp_path / "log", start_timeout_s=start_timeout_s)


def no_words(line: str) -> None:
    """Nobody listens."""


def fleet(tmp_path: Path, *sides: Side) -> Fleet:
    return Fleet({side.name: side for side in sides}, tmp_path, no_words)


def test_a_request_and_its_answer(tmp_path: Path) -> None:
    worker = start(tmp_path, "--step-ms", "5", "--rows", "3")
    try:
        assert (worker.version, worker.max_rows) == ("scripted 1.0", 3)
        answer = worker.generate([7, 8], 3)
        assert answer.token_ids == (9, 10, 11)
        assert answer.times_ms == (20, 25, 30)
        assert worker.anonymous_bytes() > 0
    finally:
        worker.close()
    assert worker.process.returncode == 0
    assert "talks while it is imported" in (tmp_path / "log").read_text()


def test_many_requests_keep_their_order(tmp_path: Path) -> None:
    worker = start(tmp_path)
    try:
        requests = [request([10], 2), request([20], 1, at_ms=30)]
        first, second = worker.generate_many(requests, clients=2)
        assert (first.token_ids, second.token_ids) == ((11, 12), (21,))
        assert second.start_ms >= 30
        assert second.ttft_ms == pytest.approx(40)
    finally:
        worker.close()


def test_what_a_verb_raises_is_told_in_one_line_and_the_worker_goes_on(tmp_path: Path) -> None:
    worker = start(tmp_path)
    try:
        with pytest.raises(WorkerError, match=r"^fly: ValueError: no verb 'fly' here$"):
            worker.call("fly")
        assert worker.generate([1], 1).token_ids == (2,)
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("begin", "told"),
    [
        ("fatal", r"^RuntimeError: no such model: DIR$"),
        ("garbage", r"^it said b'hello', which is none of the protocol$"),
        ("silence", r"^silent for 1 s; see "),
        ("end", r"^it ended with exit status 9: Segmentation fault$"),
    ],
)
def test_a_worker_that_does_not_start_says_why(tmp_path: Path, begin: str, told: str) -> None:
    with pytest.raises(WorkerError, match=told):
        start(tmp_path, "--begin", begin, start_timeout_s=1 if begin == "silence" else 30)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be started"):
        Worker([tmp_path / "no python"], log=tmp_path / "log")


def test_settings_of_the_person_do_not_reach_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_APPLIANCE_ENGINE_NUM_THREADS", "1")
    worker = start(tmp_path)
    try:
        environment = Path(f"/proc/{worker.process.pid}/environ").read_bytes()
    finally:
        worker.close()
    assert b"PATH=" in environment
    assert b"QWEN_APPLIANCE_" not in environment


def test_a_peer_that_does_not_start_is_not_tried_again_and_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    sides = {s.name: s for s in (scripted("good"), scripted("bad", "--begin", "fatal"))}
    with Fleet(sides, tmp_path, said.append) as running:
        assert running.available("bad", "good", "unheard of") == ["good"]
        with pytest.raises(UnavailableError, match="no such model"):
            running.worker("bad")
        assert running.unavailable == {"bad": "RuntimeError: no such model: DIR"}
    assert sum("no such model" in line for line in said) == 1


def test_a_peer_that_cannot_be_installed_is_named_with_the_reason(tmp_path: Path) -> None:
    def refuse() -> None:
        raise UnavailableError("no wheel for this Python")

    broken = Side("broken", "in process", refuse)  # type: ignore[arg-type]
    with fleet(tmp_path, broken) as running:
        assert running.available("broken") == []
        assert running.unavailable == {"broken": "no wheel for this Python"}


def test_a_worker_is_kept_until_it_is_stopped(tmp_path: Path) -> None:
    with fleet(tmp_path, scripted("one")) as running:
        pid = running.worker("one").call("pid")
        assert running.worker("one").call("pid") == pid
        running.stop("one")
        assert running.worker("one").call("pid") != pid


def test_sides_take_turns_and_each_begins_a_round(tmp_path: Path) -> None:
    order: list[tuple[int, int]] = []
    with fleet(tmp_path, scripted("a", "--step-ms", "1"), scripted("b", "--step-ms", "2")) as both:

        def measure(worker: Worker, number: int) -> float:
            order.append((number, worker.call("pid")))
            return worker.generate([1], 2).per_token_ms

        values = take_turns(both, ["a", "b"], 3, measure, pause_s=0)
        a, b = (both.worker(name).call("pid") for name in ("a", "b"))
    assert values == {"a": [1, 1, 1], "b": [2, 2, 2]}  # the warm-up is left out
    assert order == [(0, a), (0, b), (1, b), (1, a), (2, a), (2, b), (3, b), (3, a)]


def test_a_side_that_fails_on_the_way_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    with fleet(tmp_path, scripted("good"), scripted("bad", "--fail-at", "3")) as both:
        values = take_turns(
            both,
            ["bad", "good"],
            4,
            lambda worker, number: worker.generate([1], 1).ttft_ms,
            pause_s=0,
        )
        assert values == {"good": [40, 40, 40, 40]}
        assert both.unavailable == {"bad": "generate: ValueError: told to fail"}
