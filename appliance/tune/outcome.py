"""What a trial came to, in figures and in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

from appliance.tune.calibration import Trial
from appliance.tune.candidates import Candidate
from appliance.tune.drafts import PassTimes
from appliance.tune.judge import Judgement, TurnTimes


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate's trial; `sweeps`, of a winner, are what its passes take."""

    candidate: Candidate
    trial: Trial
    sweeps: tuple[PassTimes, ...] = ()

    @property
    def ratio(self) -> float:
        assert self.trial.ratio is not None
        return self.trial.ratio


def measured(
    candidate: Candidate, num_rounds: int, times: TurnTimes, judgement: Judgement
) -> Outcome:
    """The outcome of a candidate that took its turns."""
    trial = Trial(
        candidate.name,
        num_rounds,
        times.decode,
        times.prefill,
        judgement.ratio,
        judgement.margin,
        judgement.wins,
        _verdict(candidate, judgement),
    )
    return Outcome(candidate, trial)


def unmeasured(candidate: Candidate, verdict: str) -> Outcome:
    """The outcome of a candidate that must not be used, or cannot."""
    return Outcome(candidate, Trial(candidate.name, 0, None, None, None, None, False, verdict))


def of_default(times: TurnTimes, num_rounds: int, *, stays: bool) -> Trial:
    """The line that all others are compared with."""
    verdict = "stays" if stays else ""
    return Trial(
        "default", num_rounds, times.decode, times.prefill, 1.0, None, wins=False, verdict=verdict
    )


def winners(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The fastest winner of each setting, or of several settings together."""
    best: dict[tuple[str, ...], Outcome] = {}
    for outcome in outcomes:
        settings = tuple(outcome.candidate.changes)
        if outcome.trial.wins and (settings not in best or outcome.ratio < best[settings].ratio):
            best[settings] = outcome
    return list(best.values())


def fastest(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The winner with the lowest ratio, if anything won."""
    return min(winners(outcomes), key=lambda outcome: outcome.ratio, default=None)


def together(outcomes: Iterable[Outcome]) -> Candidate:
    """One candidate with the changes of all."""
    return reduce(add, (outcome.candidate for outcome in outcomes))


def _verdict(candidate: Candidate, judgement: Judgement) -> str:
    with_memory = f"; {candidate.memory}" if candidate.memory else ""
    return _judged(candidate, judgement) + with_memory


def _judged(candidate: Candidate, judgement: Judgement) -> str:
    margin = f"{judgement.margin:.1%}"
    if judgement.wins:
        return f"wins by more than {margin}"
    if judgement.ratio > 1 + judgement.margin:
        return "slower"
    if judgement.ratio >= 1:
        return "no faster"
    if candidate.memory_factor > 1:
        return f"faster by less than the {margin} that its memory asks for"
    return f"faster by less than the margin of {margin}"
