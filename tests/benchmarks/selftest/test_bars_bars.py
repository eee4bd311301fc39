"""Whole bars on scripted sides, and what they look like in the table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from tests import tiny_model
from tests.benchmarks.bars import correctness, new_prompt, repeated_prompt
from tests.benchmarks.bars.side_by_side import measure_standings
from tests.benchmarks.harness import report
from tests.benchmarks.harness.answer import Answer
from tests.benchmarks.harness.comparison import Comparison, Limit, Row
from tests.benchmarks.harness.fleet import Fleet, Side
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.prompts import Prompts
from tests.benchmarks.selftest.scripted_side import scripted


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    tokenizer = Tokenizer(tiny_model.make(tmp_path / "model"))
    return Prompts(tokenizer, ChatTemplate(tiny_model.TEMPLATE, {}), seed=1)


def lab(tmp_path: Path, prompts: Prompts, *sides: Side) -> Lab:
    running = Fleet({side.name: side for side in sides}, tmp_path, lambda line: None)
    variants = tuple(side.name for side in sides if side.name in ("stateful", "paged"))
    return Lab(running, prompts, variants, tmp_path, share=0.2, say=lambda line: None, pause_s=0)


def test_a_bar_beside_a_peer(tmp_path: Path, prompts: Prompts) -> None:
    sides = (
        scripted("stateful", "--step-ms", "3"),
        scripted("paged", "--step-ms", "2"),
        scripted("genai", "--step-ms", "2.5"),
        scripted("genai LLMPipeline", "--begin", "fatal"),
    )
    bench = lab(tmp_path, prompts, *sides)
    with bench.fleet:
        beside_genai, beside_pipeline = new_prompt.measure(bench)
    assert beside_genai.ours["stateful"].ratio == pytest.approx(1.2)
    assert beside_genai.ours["paged"].ratio == pytest.approx(0.8)
    assert beside_genai.passed
    assert beside_genai.verdicts == {"stateful": "short by 20%", "paged": "pass"}
    assert not beside_pipeline.ours
    assert set(beside_pipeline.missing.values()) == {"RuntimeError: no such model: DIR"}


def test_a_bar_in_steps_of_the_same_answer(tmp_path: Path, prompts: Prompts) -> None:
    bench = lab(tmp_path, prompts, scripted("stateful", "--step-ms", "3"))
    with bench.fleet:
        (row,) = repeated_prompt.measure(bench)
    assert row.ours["stateful"].ratio == pytest.approx(4)
    assert row.verdicts == {"stateful": "short by 186%"}


def test_everybody_side_by_side(tmp_path: Path, prompts: Prompts) -> None:
    bench = lab(tmp_path, prompts, scripted("stateful", "--rows", "8"), scripted("peer"))
    with bench.fleet:
        ours, peer = measure_standings(bench, ["peer", "left out"])
    assert (ours.name, peer.name) == ("stateful", "peer")
    assert (peer.ttft_new_41_ms, peer.per_token_ms) == (40, 10)
    assert ours.tokens_per_s_of_8 is not None
    assert peer.tokens_per_s_of_8 is None
    header, *lines = report.standings_table([ours, peer])
    assert header.split()[:2] == ["side", "by"]
    assert [line.split()[0] for line in lines] == ["stateful", "peer"]


def answer(*token_ids: int, margins: tuple[float, ...] = ()) -> Answer:
    return Answer(0.0, tuple(map(float, token_ids)), token_ids, len(token_ids), None, margins)


def test_only_the_first_difference_counts() -> None:
    reference = answer(1, 2, 3, 4, margins=(5.0, 0.25, 9.0, 9.0))
    gap = correctness.gap_at_first_difference
    assert gap(reference, answer(1, 2, 3, 4)) is None
    assert gap(reference, answer(1, 7, 8, 9)) == 0.25
    assert gap(reference, answer(1, 2)) == 9.0


def test_a_near_tie_is_no_error_and_a_clear_choice_is_one() -> None:
    reference = answer(1, 2, margins=(correctness.TOLERANCE + 0.25, correctness.TOLERANCE))
    found = correctness.Differences()
    for other in (answer(1, 2), answer(1, 3), answer(4, 2)):
        found.add(reference, other)
    assert found.num_wrong == 1
    assert str(found) == f"2 of 3 differ, largest gap {correctness.TOLERANCE + 0.25:.2f}"


def test_prompts_have_their_length_and_no_common_beginning(prompts: Prompts) -> None:
    made = [prompts.fresh(count) for count in (1, 41, 300, 300)]
    assert [len(ids) for ids in made] == [1, 41, 300, 300]
    assert made[2][:8] != made[3][:8]
    assert all(20 <= len(ids) <= 30 for ids in prompts.many(20, 20, 30))


def test_the_table_has_a_line_per_row_and_says_what_is_missing() -> None:
    ours = {"stateful": Comparison((18.0, 20.0), (20.0, 20.0))}
    rows = [
        Row("decode", "ms", Limit("<=", 1.0), "genai", ours, {"paged": "it ended"}),
        Row("memory", "MB", Limit("<=", 950), "", {}, {"stateful": "gone", "paged": "gone"}),
    ]
    lines = report.bars_table(rows, ("stateful", "paged"))
    assert lines[1].startswith("decode, ms ")
    assert "0.95 (0.90-1.00)" in lines[1]
    assert "stateful pass, paged not measured" in lines[1]
    assert lines[3:] == ["decode, ms: not measured: it ended", "memory, MB: not measured: gone"]
    assert report.summary(rows).startswith("1 rows pass in at least one variant, 0 fall short, 1")


def test_the_json_file_has_every_round(tmp_path: Path) -> None:
    row = Row("decode", "ms", Limit("<=", 1.0), "genai", {"paged": Comparison((1.0, 3.0), (2, 2))})
    with Fleet({}, tmp_path, lambda line: None) as empty:
        report.write_json(tmp_path / "out.json", [row], [], empty, {"model": "m"})
    document = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    (bar,) = document["bars"]
    assert bar["variants"]["paged"] == {"ratio": 1.0, "ours": [1.0, 3.0], "theirs": [2, 2]}
    assert document["model"] == "m"
    assert dataclasses.is_dataclass(row)
