"""Whatever way a prompt is computed, greedy decoding answers the same, up to near ties.

The reference is cold: a process that does nothing but one new prompt after another, and notes how
far the best logit of each token was above the second best. Against it stand

    batched     new prompts, eight at once
    restored    the same prompt again when seven others came between
    warm        the same prompt again at once
    restarted   the same prompt in a new process, which has saved prefixes of the last one
    drafted     with tokens guessed from the prompt

Rounding differs between them (INT8 activations, an 8-bit KV cache, other shapes of the same matrix
product), so where two tokens are nearly as likely another one may win. A first difference where the
reference's margin is at most `TOLERANCE` is such a near tie; any other is an error. In bfloat16, in
which some CPUs compute, logits from 16 to 32 come in steps of 0.125, and exact ties are not rare;
the tolerance is four such steps. The largest margin at a first difference is told in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.benchmarks.harness.answer import Answer
from tests.benchmarks.harness.comparison import Comparison, Limit, Row
from tests.benchmarks.harness.fleet import UnavailableError
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import WorkerError, request
from tests.benchmarks.peers import ours

TOLERANCE = 0.5
_LIMIT = Limit("<=", 0)
_PROMPTS = 200
_MAX_TOKENS = 10
_GROUP = 8
_LONG_EVERY, _LONG_TOKENS = 10, 300
_MODES = ("batched", "restored", "warm", "restarted", "drafted")


@dataclass(slots=True)
class Differences:
    """What one way of computing answered otherwise than the reference, and how near it was."""

    num_answers: int = 0
    gaps: list[float] = field(default_factory=list)

    def add(self, reference: Answer, answered: Answer) -> None:
        """Compare one answer."""
        self.num_answers += 1
        gap = gap_at_first_difference(reference, answered)
        if gap is not None:
            self.gaps.append(gap)

    @property
    def num_wrong(self) -> int:
        """Answers that differ where there was no near tie."""
        return sum(gap > TOLERANCE for gap in self.gaps)

    def __str__(self) -> str:
        text = f"{len(self.gaps)} of {self.num_answers} differ"
        return f"{text}, largest gap {max(self.gaps):.2f}" if self.gaps else text


def gap_at_first_difference(reference: Answer, answered: Answer) -> float | None:
    """The reference's margin at the first token that is another one; None when all are the same.

    An answer that is too short counts as one that differs where it ends.
    """
    pairs = zip(reference.token_ids, answered.token_ids, strict=False)
    for margin, (expected, found) in zip(reference.margins, pairs, strict=False):
        if expected != found:
            return margin
    num_compared = min(len(reference.token_ids), len(answered.token_ids))
    if num_compared < len(reference.token_ids):
        return reference.margins[num_compared]
    return None


def measure(lab: Lab) -> list[Row]:
    """A row per way of computing."""
    found = {variant: _compare(lab, variant) for variant in lab.variants}
    rows = []
    for mode in _MODES:
        counts = {v: _count(ways.get(mode)) for v, ways in found.items()}
        row = lab.alone(f"wrong answers, {mode}", "", _LIMIT, "", counts)
        missing = {v: _why_not(lab, v, mode) for v in row.missing}
        said = [f"{v}: {ways[mode]}" for v, ways in found.items() if mode in ways]
        note = "; ".join(said)
        rows.append(Row(row.bar, row.unit, row.limit, row.peer, row.ours, missing, note))
    return rows


def _count(differences: Differences | None) -> Comparison | None:
    return None if differences is None else Comparison((float(differences.num_wrong),))


def _why_not(lab: Lab, variant: str, mode: str) -> str:
    sides = {"restarted": ours.restarting(variant), "drafted": ours.drafting(variant)}
    settings = {"restarted": ours.SAVED_PREFIXES_DIR, "drafted": ours.DRAFTS}
    if mode in settings and not ours.can(settings[mode]):
        return f"this version has no setting {settings[mode]}"
    return lab.why_not(sides.get(mode, variant))


def _compare(lab: Lab, variant: str) -> dict[str, Differences]:
    """Differences by mode; modes whose side does not run are left out."""
    count = lab.repeats(_PROMPTS)
    prompts = [
        lab.prompts.fresh(_LONG_TOKENS) if n % _LONG_EVERY == 9 else lab.prompts.question()
        for n in range(count)
    ]
    found: dict[str, Differences] = {}
    try:
        cold = _one_by_one(lab, ours.reference(variant), prompts)
        found.update(_in_one_process(lab, variant, prompts, cold))
        if ours.can(ours.DRAFTS):
            drafted = _at_once(lab, ours.drafting(variant), prompts, clients=4)
            found["drafted"] = _differences(cold, drafted)
            lab.fleet.stop(ours.drafting(variant))
        if ours.can(ours.SAVED_PREFIXES_DIR):
            found["restarted"] = _differences(cold, _restarted(lab, variant, prompts))
    except UnavailableError:
        pass  # said already, by the side that ended
    finally:
        lab.fleet.stop(ours.reference(variant))
    return found


def _in_one_process(
    lab: Lab, variant: str, prompts: Sequence[list[int]], cold: Sequence[Answer]
) -> dict[str, Differences]:
    """Batched, then restored, then warm; eight prompts at a time."""
    found = {mode: Differences() for mode in ("batched", "restored", "warm")}
    for start in range(0, len(prompts), _GROUP):
        group, references = prompts[start : start + _GROUP], cold[start : start + _GROUP]
        batched = _at_once(lab, variant, group, clients=_GROUP)
        twice = [prompt for prompt in group for _ in range(2)]
        again = _one_by_one(lab, variant, twice)
        for mode, answers in (
            ("batched", batched),
            ("restored", again[::2]),
            ("warm", again[1::2]),
        ):
            for reference, answer in zip(references, answers, strict=True):
                found[mode].add(reference, answer)
    return found


def _restarted(lab: Lab, variant: str, prompts: Sequence[list[int]]) -> list[Answer]:
    name = ours.restarting(variant)
    lab.fleet.stop(name)
    _at_once(lab, name, prompts, clients=_GROUP)
    lab.fleet.stop(name)
    answers = _at_once(lab, name, prompts, clients=4)
    known = sum(
        2 * (answer.num_cached_tokens or 0) >= len(prompt)
        for answer, prompt in zip(answers, prompts, strict=True)
    )
    lab.say(f"{name}: {known} of {len(prompts)} prompts were known after the restart")
    lab.fleet.stop(name)
    return answers


def _one_by_one(lab: Lab, name: str, prompts: Sequence[list[int]]) -> list[Answer]:
    worker = lab.fleet.worker(name)
    try:
        return [worker.generate(prompt, _MAX_TOKENS) for prompt in prompts]
    except WorkerError as error:
        lab.fleet.give_up(name, str(error))
        raise UnavailableError(str(error)) from error


def _at_once(lab: Lab, name: str, prompts: Sequence[list[int]], *, clients: int) -> list[Answer]:
    requests = [request(prompt, _MAX_TOKENS) for prompt in prompts]
    try:
        return lab.fleet.worker(name).generate_many(requests, clients=clients)
    except WorkerError as error:
        lab.fleet.give_up(name, str(error))
        raise UnavailableError(str(error)) from error


def _differences(cold: Sequence[Answer], answers: Sequence[Answer]) -> Differences:
    found = Differences()
    for reference, answer in zip(cold, answers, strict=True):
        found.add(reference, answer)
    return found
