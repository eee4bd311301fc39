"""The next turn of a conversation of 1,000 tokens with 15 new ones: when nothing came between, when
others did, and after a restart of the service."""

from __future__ import annotations

from tests.benchmarks.bars.steps import STEP, in_steps, ttft_and_step
from tests.benchmarks.harness.comparison import Comparison, Limit, Row
from tests.benchmarks.harness.fleet import UnavailableError
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Worker, WorkerError
from tests.benchmarks.peers import ours

_BAR = "next turn, 1,000 known + 15 new tokens"
_AT_ONCE = Limit("<=", 2.5)
_LATER = Limit("<=", 4.0)
_ANSWER_TOKENS = 32
_PROMPT_TOKENS = 1000 - _ANSWER_TOKENS
_NEW_TOKENS = 15
_ROUNDS = 5
_OTHERS = (300, 41, 120)  # tokens: another conversation, a title for it, tags for it
_RESTARTS = 2
_CONVERSATIONS = 3


def measure(lab: Lab) -> list[Row]:
    """Three rows."""

    def at_once(worker: Worker, number: int) -> tuple[float, float]:
        return ttft_and_step(worker, _next_turn(lab, _conversation(lab, worker)))

    def after_others(worker: Worker, number: int) -> tuple[float, float]:
        known = _conversation(lab, worker)
        for length in _OTHERS:
            worker.generate(lab.prompts.fresh(length), 8)
        return ttft_and_step(worker, _next_turn(lab, known))

    rows = []
    for between, limit, turn in (
        ("nothing between", _AT_ONCE, at_once),
        ("others between", _LATER, after_others),
    ):
        figures = lab.take_turns(lab.variants, _ROUNDS, turn)
        comparisons = {name: in_steps(pairs) for name, pairs in figures.items()}
        rows.append(lab.alone(f"{_BAR}, {between}", "ms", limit, STEP, comparisons))
    restarted = {variant: _after_restarts(lab, variant) for variant in lab.variants}
    rows.append(lab.alone(f"{_BAR}, after a restart", "ms", _LATER, STEP, restarted))
    return rows


def _conversation(lab: Lab, worker: Worker) -> list[int]:
    """A first turn; all its tokens, 1,000 of them."""
    prompt = lab.prompts.fresh(_PROMPT_TOKENS)
    return prompt + list(worker.generate(prompt, _ANSWER_TOKENS).token_ids)


def _next_turn(lab: Lab, known: list[int]) -> list[int]:
    return known + lab.prompts.fresh(_NEW_TOKENS)


def _after_restarts(lab: Lab, variant: str) -> Comparison | None:
    """A few conversations before each restart, each gone on with afterwards. The prefixes are not
    warm in any way: it is a new process, which has answered its warm-up and nothing else."""
    name = ours.restarting(variant)
    pairs = []
    try:
        for _ in range(lab.repeats(_RESTARTS)):
            known = [_conversation(lab, lab.fleet.worker(name)) for _ in range(_CONVERSATIONS)]
            lab.fleet.stop(name)
            for conversation in known:
                turn = _next_turn(lab, conversation)
                pairs.append(ttft_and_step(lab.fleet.worker(name), turn))
    except WorkerError as error:
        lab.fleet.give_up(name, str(error))
    except UnavailableError:
        pass  # said already, when it did not start
    finally:
        lab.fleet.stop(name)
    return in_steps(pairs)
