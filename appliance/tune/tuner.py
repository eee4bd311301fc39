"""Runs the trials within a budget of seconds, most valuable first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from appliance.config import EngineConfig
from appliance.errors import ApplianceError
from appliance.model_dir import Golden
from appliance.tune.calibration import Trial
from appliance.tune.candidates import Candidate
from appliance.tune.closeness import objection
from appliance.tune.contest import MIN_ROUNDS, Round, TimeBox, compete
from appliance.tune.contestant import Contestant
from appliance.tune.drafts import PassTimes
from appliance.tune.judge import PROMPT_TOKENS, TurnTimes, median_times
from appliance.tune.outcome import Outcome, fastest, of_default, together, unmeasured, winners

_NUM_SWEEPS = 3
_CHUNKED_PROMPT_TOKENS = 256

Load = Callable[[EngineConfig], Contestant]


@dataclass(frozen=True, slots=True)
class Tuning:
    """`winner` and `chunk_winner` are None where the default won.

    `sweeps` are the passes of whoever won, or the default's if there was no time for the winner's.
    """

    trials: list[Trial]
    not_reached: list[str]
    winner: Candidate | None
    chunk_winner: Candidate | None
    sweeps: tuple[PassTimes, ...]


class Tuner:
    """Pits candidates against the default of `base`.

    The default and one candidate are loaded at a time, which a small box's memory holds. They take
    turns, so that a busy moment hits both. A candidate begins only if a load and `MIN_ROUNDS`
    rounds, each as long as the longest so far, fit into `time_box`. `tell` gets the name of what
    begins.
    """

    def __init__(
        self,
        load: Load,
        base: EngineConfig,
        golden: Golden,
        time_box: TimeBox,
        tell: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._load = load
        self._base = base
        self._golden = golden
        self._time_box = time_box
        self._tell = tell
        self._longest_load_s = self._longest_round_s = self._sweeps_s = 0.0
        self._default_rounds: list[TurnTimes] = []
        self._default_sweeps: tuple[PassTimes, ...] = ()
        self._outcomes: list[Outcome] = []
        self._not_reached: list[str] = []

    def run(self, properties: Iterable[Candidate], chunks: Iterable[Candidate]) -> Tuning:
        """Try all there is time for; the default is measured in any case. To be called once.

        Raises `ApplianceError` when the default cannot be loaded or computed.
        """
        self._tell("default")
        default, reference = self._loaded(self._base)
        try:
            self._first_round(default)
            self._default_sweeps = self._sweeps(default)
            for candidate in properties:
                # Time for what won on several counts, together, is not spent on lesser candidates.
                to_come = 2 if len(winners(self._outcomes)) > 1 else 1
                self._try(candidate, default, reference, to_come)
            if len(won := winners(self._outcomes)) > 1:
                self._try(together(won), default, reference)
            chunk_outcomes = self._chunk_outcomes(chunks, default)
        finally:
            default.close()
        return self._tuning(chunk_outcomes)

    def _tuning(self, chunk_outcomes: list[Outcome]) -> Tuning:
        times = median_times(self._default_rounds)
        winner, chunk_winner = fastest(self._outcomes), fastest(chunk_outcomes)
        first = of_default(times, len(self._default_rounds), stays=winner is None)
        return Tuning(
            [first, *(outcome.trial for outcome in (*self._outcomes, *chunk_outcomes))],
            self._not_reached,
            winner.candidate if winner else None,
            chunk_winner.candidate if chunk_winner else None,
            (winner and winner.sweeps) or self._default_sweeps,
        )

    def _loaded(self, config: EngineConfig) -> tuple[Contestant, NDArray[np.float32]]:
        """A contestant past its first passes, which are slow; its logits for the golden answer."""
        begun = self._time_box.clock()
        contestant = self._load(config)
        try:
            golden = self._golden
            logits = contestant.answer_logits(golden.prompt_ids, golden.greedy_ids)
            contestant.time_turn()
        except BaseException:
            contestant.close()
            raise
        self._longest_load_s = max(self._longest_load_s, self._time_box.clock() - begun)
        return contestant, logits

    def _first_round(self, default: Contestant) -> None:
        begun = self._time_box.clock()
        self._default_rounds.append(default.time_turn())
        self._longest_round_s = 2 * (self._time_box.clock() - begun)

    def _try(
        self,
        candidate: Candidate,
        default: Contestant,
        reference: NDArray[np.float32],
        num_trials_to_come: int = 1,
    ) -> None:
        trial_s = self._longest_load_s + MIN_ROUNDS * self._longest_round_s
        if not self._time_box.fits(num_trials_to_come * trial_s):
            self._not_reached.append(candidate.name)
            return
        self._tell(candidate.name)
        outcome: Outcome | None
        try:
            outcome = self._trial(candidate, default, reference)
        except ApplianceError as error:
            outcome = unmeasured(candidate, f"not possible here: {error}")
        if outcome is None:
            self._not_reached.append(candidate.name)
        else:
            self._outcomes.append(outcome)

    def _trial(
        self, candidate: Candidate, default: Contestant, reference: NDArray[np.float32]
    ) -> Outcome | None:
        contestant, logits = self._loaded(candidate.config(self._base))
        try:
            if against := objection(reference, logits):
                return unmeasured(candidate, f"answers differ: {against}")
            outcome = compete(candidate, lambda: self._round(contestant, default), self._time_box)
            if outcome and outcome.trial.wins and self._time_box.fits(self._sweeps_s):
                outcome = dataclasses.replace(outcome, sweeps=self._sweeps(contestant))
            return outcome
        finally:
            contestant.close()

    def _sweeps(self, contestant: Contestant) -> tuple[PassTimes, ...]:
        begun = self._time_box.clock()
        sweeps = tuple(contestant.time_passes() for _ in range(_NUM_SWEEPS))
        self._sweeps_s = max(self._sweeps_s, self._time_box.clock() - begun)
        return sweeps

    def _round(self, contestant: Contestant, default: Contestant) -> Round:
        """One turn each. Who goes first changes, as what ran before leaves traces in the caches."""
        begun = self._time_box.clock()
        if len(self._default_rounds) % 2:
            mine, others = contestant.time_turn(), default.time_turn()
        else:
            others, mine = default.time_turn(), contestant.time_turn()
        self._default_rounds.append(others)
        self._longest_round_s = max(self._longest_round_s, self._time_box.clock() - begun)
        return mine, others

    def _chunk_outcomes(
        self, candidates: Iterable[Candidate], default: Contestant
    ) -> list[Outcome]:
        """Prompts in chunks of other sizes, on the default; decode steps are the same for all."""
        decode_steps = median_times(self._default_rounds)
        default_chunk = self._base.prefill_chunk
        share = PROMPT_TOKENS / _CHUNKED_PROMPT_TOKENS

        def times(chunk: int) -> TurnTimes:
            took = default.time_prefill(_CHUNKED_PROMPT_TOKENS, chunk)
            return dataclasses.replace(decode_steps, prefill=share * took)

        outcomes = []
        for candidate in candidates:
            round_s = 2 * decode_steps.prefill / share / 1000
            if not self._time_box.fits((MIN_ROUNDS + 1) * round_s):
                self._not_reached.append(candidate.name)
                continue
            self._tell(candidate.name)
            play = partial(_in_turn, times, candidate.changes["prefill_chunk"], default_chunk)
            play()  # the first passes of a shape are slow
            if outcome := compete(candidate, play, self._time_box):
                outcomes.append(outcome)
            else:
                self._not_reached.append(candidate.name)
        return outcomes


def _in_turn(times: Callable[[int], TurnTimes], chunk: int, default_chunk: int) -> Round:
    return times(chunk), times(default_chunk)
