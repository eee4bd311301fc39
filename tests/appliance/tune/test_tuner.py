"""Who wins, within which time, on machines whose timings are scripted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, cycle

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.config import EngineConfig
from appliance.errors import BackendError
from appliance.model_dir import Golden
from appliance.tune.calibration import Trial
from appliance.tune.candidates import Candidate
from appliance.tune.contest import MAX_ROUNDS, MIN_ROUNDS, TimeBox
from appliance.tune.tuner import Tuner, Tuning
from tests.appliance.tune.scripted_machine import ScriptedMachine, Speed

GROUP_64 = Candidate("group 64", {"dynamic_quantization_group_size": 64})
GROUP_256 = Candidate("group 256", {"dynamic_quantization_group_size": 256})
F32 = Candidate("inference f32", {"inference_precision": "f32"})
KV_F16 = Candidate("kv f16", {"kv_cache_precision": "f16"}, 2, "24 KB instead of 12")
CHUNK_64 = Candidate("chunk 64", {"prefill_chunk": 64}, 0.5, "smaller buffers")
CHUNK_256 = Candidate("chunk 256", {"prefill_chunk": 256}, 2, "larger buffers")


def tune(
    machine: ScriptedMachine,
    *candidates: Candidate,
    chunks: tuple[Candidate, ...] = (),
    seconds: float = 1000,
    told: list[str] | None = None,
) -> Tuning:
    tuner = Tuner(
        machine.load,
        EngineConfig(),
        Golden("hi", (1, 2), (3, 4, 5, 6)),
        TimeBox(machine.now + seconds, machine.clock),
        (told if told is not None else []).append,
    )
    return tuner.run(candidates, chunks)


@pytest.mark.parametrize(
    ("decode", "verdict"), [(40, "slower"), (30, "no faster"), (30.5, "no faster")]
)
def test_who_is_not_faster_is_told_so(decode: float, verdict: str) -> None:
    tuning = tune(ScriptedMachine(by_group(g64=(decode, 200))), GROUP_64)
    assert trial(tuning, "group 64").verdict == verdict


def by_group(**speeds: Speed) -> Callable[[EngineConfig], Speed]:
    """Speeds by group size, `g64=(28, 200)`; 30 and 200 ms otherwise."""
    return lambda config: speeds.get(f"g{config.dynamic_quantization_group_size}", (30, 200))


def trial(tuning: Tuning, name: str) -> Trial:
    (found,) = [one for one in tuning.trials if one.name == name]
    return found


def test_the_fastest_wins() -> None:
    tuning = tune(
        ScriptedMachine(by_group(g64=(27, 200), g256=(25, 200))), GROUP_64, GROUP_256, F32
    )
    assert tuning.winner == GROUP_256
    assert tuning.sweeps[0].steady[1] == 25
    assert [one.name for one in tuning.trials] == [
        "default",
        "group 64",
        "group 256",
        "inference f32",
    ]
    assert trial(tuning, "group 64").wins and trial(tuning, "group 256").wins
    lost = trial(tuning, "inference f32")
    assert (lost.ratio, lost.wins, lost.num_rounds) == (1.0, False, MIN_ROUNDS)
    assert trial(tuning, "group 256").num_rounds == MAX_ROUNDS
    assert tuning.not_reached == []


def test_nothing_wins_by_a_hair() -> None:
    tuning = tune(ScriptedMachine(by_group(g64=(29.5, 200))), GROUP_64)
    assert tuning.winner is None
    assert trial(tuning, "default").verdict == "stays"
    assert trial(tuning, "group 64").verdict == "faster by less than the margin of 3.0%"
    assert tuning.sweeps[0].steady[1] == 30


def test_a_machine_that_is_busy_now_and_then_changes_nothing() -> None:
    # The default's first two turns and the candidate's first; then two turns a round.
    noise = chain([1.0, 1.0, 5.0], cycle([1.0, 1.0, 2.0, 2.0, 1.5, 1.5]))
    tuning = tune(ScriptedMachine(by_group(g64=(26, 190)), noise=noise), GROUP_64)
    assert tuning.winner == GROUP_64
    assert trial(tuning, "group 64").ratio == pytest.approx((26 * 64 + 190) / (30 * 64 + 200))


def test_turns_are_taken_and_the_first_one_changes() -> None:
    machine = ScriptedMachine(by_group(g64=(25, 200)))
    tune(machine, GROUP_64)
    default, candidate = None, 64
    groups = [config.dynamic_quantization_group_size for config in machine.rounds]
    assert groups[:3] == [default, default, candidate]  # warm-up, first round, warm-up
    pairs = list(zip(groups[3::2], groups[4::2], strict=True))
    assert pairs == [(candidate, default), (default, candidate)] * 3 + [(candidate, default)]


def test_two_models_are_loaded_at_most_and_none_is_left() -> None:
    machine = ScriptedMachine(by_group(g64=(25, 200)))
    tune(machine, GROUP_64, GROUP_256, F32, KV_F16)
    assert (machine.most_open, machine.num_open) == (2, 0)


def test_winners_of_several_settings_are_tried_together() -> None:
    def speed(config: EngineConfig) -> Speed:
        fast_group = config.dynamic_quantization_group_size == 256
        fast_precision = config.inference_precision == "f32"
        return 30 - 3 * fast_group - 2 * fast_precision, 200

    tuning = tune(ScriptedMachine(speed), GROUP_256, F32)
    assert tuning.winner is not None
    assert tuning.winner.name == "group 256 + inference f32"
    assert tuning.winner.changes == {**GROUP_256.changes, **F32.changes}
    assert trial(tuning, tuning.winner.name).decode_ms == 25


def test_together_they_may_be_worse_than_alone() -> None:
    def speed(config: EngineConfig) -> Speed:
        fast_group = config.dynamic_quantization_group_size == 256
        fast_precision = config.inference_precision == "f32"
        return (31, 200) if fast_group and fast_precision else (27 + fast_precision, 200)

    def default_is_slower(config: EngineConfig) -> Speed:
        is_default = config == EngineConfig()
        return (30, 200) if is_default else speed(config)

    tuning = tune(ScriptedMachine(default_is_slower), GROUP_256, F32)
    assert tuning.winner == GROUP_256


def test_memory_must_be_bought_and_is_named() -> None:
    def on(fast: Speed) -> ScriptedMachine:
        return ScriptedMachine(lambda c: fast if c.kv_cache_precision == "f16" else (30, 200))

    lost = trial(tune(on((27, 180)), KV_F16), "kv f16")
    assert not lost.wins
    assert lost.verdict == (
        "faster by less than the 13.0% that its memory asks for; 24 KB instead of 12"
    )
    won = trial(tune(on((25, 160)), KV_F16), "kv f16")
    assert won.wins
    assert won.verdict == "wins by more than 13.0%; 24 KB instead of 12"


def other_answers(config: EngineConfig) -> NDArray[np.float32]:
    logits = np.eye(4, 10, dtype=np.float32)
    if config.dynamic_quantization_group_size == 64:
        logits[2, 7] = 2  # another token, 1 ahead
    return logits


def test_who_answers_otherwise_never_wins_however_fast() -> None:
    machine = ScriptedMachine(by_group(g64=(3, 20), g256=(28, 200)), logits=other_answers)
    tuning = tune(machine, GROUP_64, GROUP_256)
    assert tuning.winner == GROUP_256
    refused = trial(tuning, "group 64")
    assert (refused.wins, refused.num_rounds, refused.ratio) == (False, 0, None)
    assert refused.verdict.startswith("answers differ: token 3 of the golden answer")


def test_what_cannot_be_loaded_is_no_failure() -> None:
    machine = ScriptedMachine(
        by_group(g256=(25, 200)), broken=lambda c: c.dynamic_quantization_group_size == 64
    )
    tuning = tune(machine, GROUP_64, GROUP_256)
    assert tuning.winner == GROUP_256
    assert trial(tuning, "group 64").verdict.startswith("not possible here: OpenVINO cannot")
    assert machine.num_open == 0


def test_a_default_that_cannot_be_loaded_is_one() -> None:
    with pytest.raises(BackendError, match="told not to"):
        tune(ScriptedMachine(broken=lambda config: True), GROUP_64)


def test_chunks_are_tried_on_the_default_without_loading() -> None:
    machine = ScriptedMachine()
    told: list[str] = []
    tuning = tune(machine, chunks=(CHUNK_64, CHUNK_256), told=told)
    assert told == ["default", "chunk 64", "chunk 256"]
    assert len(machine.loaded) == 1
    # 200 + 20 ms of 128 tokens, against 200 + 40 and 200 + 10.
    assert trial(tuning, "chunk 64").prefill_ms == pytest.approx(240)
    assert trial(tuning, "chunk 256").prefill_ms == pytest.approx(210)
    assert tuning.chunk_winner is None


def test_a_chunk_that_pays_is_kept_beside_the_winner() -> None:
    machine = ScriptedMachine(by_group(g64=(1, 200), gNone=(2, 200)))
    cheap = Candidate("chunk 256", {"prefill_chunk": 256})
    tuning = tune(machine, GROUP_64, chunks=(cheap,))
    assert (tuning.winner, tuning.chunk_winner) == (GROUP_64, None)
    slow_passes = ScriptedMachine(lambda config: (0.1, 10))
    assert tune(slow_passes, chunks=(cheap,)).chunk_winner == cheap


# A turn takes 200 + 8 * 30 ms. The default takes a load, a warm-up, a round and three sweeps of 200
# ms and passes of 2 * 228 + 5 * 15 ms; a candidate that loses a load, a warm-up and three rounds.
TURN_S = 0.44
SWEEPS_S = 3 * 0.731
LOAD_S = 4.0
DEFAULT_S = LOAD_S + 2 * TURN_S + SWEEPS_S
TRIAL_S = LOAD_S + TURN_S + 3 * 2 * TURN_S


def test_the_time_box_holds_and_says_what_it_did_not_get_to() -> None:
    machine = ScriptedMachine(load_s=LOAD_S)
    started, seconds = machine.now, DEFAULT_S + 2.5 * TRIAL_S
    tuning = tune(machine, GROUP_64, GROUP_256, F32, KV_F16, seconds=seconds)
    assert [one.name for one in tuning.trials] == ["default", "group 64", "group 256"]
    assert tuning.not_reached == ["inference f32", "kv f16"]
    assert machine.now - started <= seconds


@pytest.mark.parametrize("seconds", [1, 5, 20, 45, 90])
@pytest.mark.parametrize("load_s", [0.5, 3, 9])
@pytest.mark.parametrize("turn_scale", [1, 5])
def test_no_budget_is_overrun_once_the_default_is_measured(
    seconds: float, load_s: float, turn_scale: float
) -> None:
    machine = ScriptedMachine(
        lambda c: ((28 if c.inference_precision == "f32" else 30) * turn_scale, 200 * turn_scale),
        load_s=load_s,
    )
    started = machine.now
    tuning = tune(
        machine, GROUP_64, GROUP_256, F32, KV_F16, chunks=(CHUNK_64, CHUNK_256), seconds=seconds
    )
    default_s = load_s + (2 * TURN_S + SWEEPS_S) * turn_scale
    assert machine.now - started <= max(seconds, default_s + 0.001)
    assert len(tuning.trials) - 1 + len(tuning.not_reached) >= 6


def test_a_trial_that_turns_out_too_long_is_broken_off_and_not_judged() -> None:
    machine = ScriptedMachine(by_group(g64=(300, 2000)), load_s=LOAD_S)
    started, seconds = machine.now, DEFAULT_S + 1.5 * TRIAL_S
    tuning = tune(machine, GROUP_64, seconds=seconds)
    assert tuning.not_reached == ["group 64"]
    assert [one.name for one in tuning.trials] == ["default"]
    # The one turn that showed it, its first, is the only one that cannot be foreseen.
    assert machine.now - started <= seconds + 10 * TURN_S


def test_rounds_of_an_undecided_trial_end_with_the_time() -> None:
    machine = ScriptedMachine(by_group(g64=(27, 200)), load_s=LOAD_S)
    # Time for three rounds and some more, not for seven.
    tuning = tune(machine, GROUP_64, seconds=DEFAULT_S + TRIAL_S + 3 * TURN_S)
    assert trial(tuning, "group 64").num_rounds == 4
    assert tuning.winner == GROUP_64


def test_time_for_winners_together_is_kept() -> None:
    def speed(config: EngineConfig) -> Speed:
        group = config.dynamic_quantization_group_size == 64
        precision = config.inference_precision == "f32"
        return 30 - 3 * group - 3 * precision, 200

    machine = ScriptedMachine(speed, load_s=LOAD_S)
    winners_s = 2 * (LOAD_S + TURN_S + MAX_ROUNDS * 2 * TURN_S + SWEEPS_S)
    seconds = DEFAULT_S + winners_s + 1.5 * TRIAL_S
    tuning = tune(machine, GROUP_64, F32, KV_F16, seconds=seconds)
    assert tuning.winner is not None
    assert tuning.winner.name == "group 64 + inference f32"
    assert tuning.not_reached == ["kv f16"]


def test_an_interrupted_run_closes_what_it_loaded() -> None:
    machine = ScriptedMachine()

    def interrupt(name: str) -> None:
        if name == "group 64":
            raise KeyboardInterrupt

    tuner = Tuner(
        machine.load, EngineConfig(), Golden("", (1,), (2,)), TimeBox(9e9, machine.clock), interrupt
    )
    with pytest.raises(KeyboardInterrupt):
        tuner.run([GROUP_64], [])
    assert machine.num_open == 0
