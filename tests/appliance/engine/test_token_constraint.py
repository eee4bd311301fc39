"""Answers under a constraint: whatever the model wants, and however the tokens are computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.backends.base import Backend
from appliance.engine.engine import Engine
from appliance.engine.generation import Generation
from appliance.engine.sampler import Sampler
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.sequence import FinishReason, StepOutput
from appliance.engine.token_constraint import AllowedTokens
from appliance.errors import ApplianceError
from tests.appliance.engine.engine_harness import collect, until
from tests.fakes import FakeConstraint, FakeKVCache, FakeRunner, echo_sum, fake_backend

Rule = Callable[[Sequence[int]], Collection[int]]

EOS = 299
WORD = tuple(range(100, 120))


def multiples_of_three(answer: Sequence[int]) -> Collection[int]:
    return range(0, 256, 3)


def word_then_end(answer: Sequence[int]) -> Collection[int]:
    """`WORD`, token for token, and nothing more."""
    return WORD[len(answer) : len(answer) + 1]


def pairs(answer: Sequence[int]) -> Collection[int]:
    """Two equal tokens, again and again; the end is between two pairs."""
    return range(256) if len(answer) % 2 == 0 else answer[-1:]


def pairs_or_end(answer: Sequence[int]) -> Collection[int]:
    return [*pairs(answer), *([EOS] if len(answer) % 2 == 0 else ())]


class NoisyRunner(FakeRunner):
    """Logits that depend on all tokens before, and leave every token a chance."""

    def logits_behind(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        noise = np.random.default_rng(echo_sum(token_ids) * 1000 + len(token_ids))
        return noise.normal(0, 2, self.limits.vocab_size).astype(np.float32)


async def under(
    engine: Engine, constraint: FakeConstraint | None, prompt: Sequence[int], **params: Any
) -> list[StepOutput]:
    generation = submitted(engine, constraint, prompt, **params)
    return await collect(generation)


def submitted(
    engine: Engine, constraint: FakeConstraint | None, prompt: Sequence[int], **params: Any
) -> Generation:
    wishes = SamplingParams(**{"max_tokens": 30, "temperature": 0, **params})
    return engine.submit(tuple(prompt), wishes, timeout_s=60, constraint=constraint)


def started(backend: Backend, max_draft_tokens: int = 0) -> Engine:
    engine = Engine(backend, prefill_chunk=16, max_waiting=20, max_draft_tokens=max_draft_tokens)
    engine.start()
    return engine


def answer_under(
    constraint: FakeConstraint,
    runner: FakeRunner | None = None,
    prompt: Sequence[int] = (1, 2, 3),
    max_draft_tokens: int = 0,
    **params: Any,
) -> tuple[list[int], FinishReason | None]:
    """One answer of an engine of its own, and how it ended."""

    async def run() -> list[StepOutput]:
        backend = fake_backend(runner)
        engine = started(backend, max_draft_tokens)
        try:
            return await under(engine, constraint, prompt, **params)
        finally:
            await engine.close()
            assert engine.death is None

    outputs = asyncio.run(run())
    return [i for output in outputs for i in output.token_ids], outputs[-1].finish_reason


def ids_of(allowed: AllowedTokens) -> list[int]:
    ids: list[int] = np.flatnonzero(np.unpackbits(allowed.bits, bitorder="little")).tolist()
    return ids


def test_bits_stand_for_ids_the_lowest_first() -> None:
    constraint = FakeConstraint(lambda answer: (0, 9, 31, 298), vocab_size=300)
    assert ids_of(AllowedTokens(constraint.allowed(), 300)) == [0, 9, 31, 298]


def test_bits_behind_the_vocabulary_do_not_count() -> None:
    constraint = FakeConstraint(lambda answer: (3, 299), vocab_size=320)
    for vocab_size in (299, 298, 297, 8, 4):
        allowed = AllowedTokens(constraint.allowed(), vocab_size)
        assert ids_of(allowed) == [3]
        assert not allowed.are_all


def test_tokens_without_a_bit_are_not_allowed() -> None:
    constraint = FakeConstraint(lambda answer: range(299), vocab_size=299)
    assert ids_of(AllowedTokens(constraint.allowed(), 4000)) == list(range(299))


@pytest.mark.parametrize("vocab_size", [1, 7, 8, 9, 151_936])
def test_all_are_those_of_the_vocabulary(vocab_size: int) -> None:
    mask = b"\xff" * (vocab_size // 8 + 40)
    assert AllowedTokens(mask, vocab_size).are_all
    if vocab_size > 1:
        assert not AllowedTokens(b"\xfe" + mask[1:], vocab_size).are_all


@pytest.mark.parametrize("mask", [b"", bytes(40), bytes(37) + b"\xf0\xff\xff"])
def test_a_rule_that_allows_nothing_is_an_error(mask: bytes) -> None:
    with pytest.raises(AssertionError, match="complete"):
        AllowedTokens(mask, 300)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    vocab_size=st.integers(1, 3000),
    share=st.sampled_from([0.001, 0.1, 0.5, 0.98, 1.0]),
)
def test_each_place_is_that_of_its_token(seed: int, vocab_size: int, share: float) -> None:
    random = np.random.default_rng(seed)
    marks = random.random(vocab_size) < share
    marks[random.integers(vocab_size)] = True
    allowed = AllowedTokens(np.packbits(marks, bitorder="little").tobytes(), vocab_size)
    ids = np.flatnonzero(marks).tolist()
    assert ids_of(allowed) == ids
    assert [allowed.id_at(place) for place in range(len(ids))] == ids


def test_the_model_cannot_leave_the_rule() -> None:
    """It wants token 7 and nothing else, the rule wants a word."""
    runner = FakeRunner(lambda token_ids: 7)
    answer, reason = answer_under(FakeConstraint(word_then_end), runner)
    assert (tuple(answer), reason) == (WORD, FinishReason.STOP)


def test_what_can_only_end_ends_without_one_more_pass() -> None:
    runner = FakeRunner(lambda token_ids: 7)
    answer_under(FakeConstraint(word_then_end), runner)
    assert len(runner.passes) == len(WORD)


def test_the_likeliest_of_what_is_allowed_is_taken() -> None:
    runner = NoisyRunner()
    answer, reason = answer_under(FakeConstraint(multiples_of_three), runner)
    token_ids = [1, 2, 3]
    for token_id in answer:
        allowed = runner.logits_behind(token_ids)[0:256:3]
        assert token_id == 3 * allowed.argmax()
        token_ids.append(token_id)
    assert (len(answer), reason) == (30, FinishReason.LENGTH)


@pytest.mark.parametrize("length", [1, 2, 19])
def test_max_tokens_cuts_it_and_says_so(length: int) -> None:
    answer, reason = answer_under(FakeConstraint(word_then_end), max_tokens=length)
    assert (tuple(answer), reason) == (WORD[:length], FinishReason.LENGTH)


def test_complete_with_its_last_token_it_has_stopped() -> None:
    answer, reason = answer_under(FakeConstraint(word_then_end), max_tokens=len(WORD))
    assert (tuple(answer), reason) == (WORD, FinishReason.STOP)


def test_an_end_token_ends_it_only_where_the_rule_may_end() -> None:
    """The model wants to end at once, and again in the middle of every pair."""

    def answer(rule: Rule) -> tuple[list[int], FinishReason | None]:
        runner = FakeRunner(lambda token_ids: EOS if len(token_ids) != 3 else 50)
        return answer_under(FakeConstraint(rule), runner, stop_token_ids=frozenset({EOS}))

    assert answer(pairs_or_end) == ([50, 50], FinishReason.STOP)
    assert answer(pairs)[1] is FinishReason.LENGTH


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_k": 3},
        {"top_p": 0.3},
        {"min_p": 0.6},
        {"temperature": 2.0, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
        {"presence_penalty": 2.0, "frequency_penalty": 1.0, "repetition_penalty": 1.4},
        {"logit_bias": {1: 100.0, 2: 100.0, 6: -100.0}},
    ],
    ids=str,
)
def test_sampling_sees_allowed_tokens_only(params: dict[str, Any]) -> None:
    """Under every parameter the draw is that of a vocabulary that has no other tokens."""
    ids = np.array([0, 3, 6, 9, 12, 40])
    mask = FakeConstraint(lambda answer: ids.tolist()).allowed()
    allowed = AllowedTokens(mask, 300)
    renamed = {i: int(token_id) for i, token_id in enumerate(ids)}
    wishes = {"max_tokens": 9, "temperature": 1.0, "seed": 4, **params}
    bias = wishes.pop("logit_bias", {})
    small_bias = {i: bias[token_id] for i, token_id in renamed.items() if token_id in bias}
    large = Sampler(SamplingParams(**wishes, logit_bias=bias), (), np.empty(300, np.float32))
    small = Sampler(
        SamplingParams(**wishes, logit_bias=small_bias), (), np.empty(len(ids), np.float32)
    )
    runner = NoisyRunner()
    drawn = []
    for step in range(50):
        logits = runner.logits_behind((step,))
        drawn.append(large.sample(logits, allowed))
        assert drawn[-1] == renamed[small.sample(logits[ids])]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("kind", ["turns", "mixing", "padded"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_change_nothing(kind: str, temperature: float) -> None:
    """Pairs, which the model would never say: every draft of another token is rejected."""

    def answers(max_draft_tokens: int) -> tuple[list[list[int]], int]:
        runner = NoisyRunner(max_slots=3, mixes_phases=kind == "mixing", pads_rows=kind == "padded")

        async def run() -> tuple[list[list[int]], int]:
            engine = started(fake_backend(runner), max_draft_tokens)
            kinds = [pairs_or_end, word_then_end, None] * 2
            rules = [kind and FakeConstraint(kind) for kind in kinds]
            outputs = await asyncio.gather(
                *(
                    under(
                        engine,
                        rule,
                        [*WORD[:9], i, i] * 3,
                        max_tokens=60,
                        temperature=temperature,
                        seed=i,
                        frequency_penalty=0.1 * i,
                        stop_token_ids=frozenset({EOS}),
                    )
                    for i, rule in enumerate(rules)
                )
            )
            await engine.close()
            assert engine.death is None
            for rule, answer in zip(rules, outputs, strict=True):
                assert rule is None or rule.accepted == [i for o in answer for i in o.token_ids]
            return [[i for o in all_ for i in o.token_ids] for all_ in outputs], (
                engine.drafts.num_accepted
            )

        return asyncio.run(run())

    with_drafts, num_accepted = answers(7)
    without, _ = answers(0)
    assert with_drafts == without
    assert with_drafts[1] == list(WORD)
    assert num_accepted > 10


def test_preempted_it_goes_on_where_it_was() -> None:
    async def run() -> list[int]:
        runner = NoisyRunner(max_slots=2, step_s=0.002)
        backend = fake_backend(runner)
        assert isinstance(backend.kv, FakeKVCache)
        engine = started(backend)
        rule = FakeConstraint(pairs)
        generation = submitted(engine, rule, (1, 2, 3), max_tokens=80)
        for _ in range(3):
            seen = len(runner.passes)
            await until(lambda seen=seen: len(runner.passes) > seen + 4)  # type: ignore[misc]
            backend.kv.refuse_reserve = set(backend.kv.used)
            await until(lambda: not backend.kv.stats().num_slots_used)
            backend.kv.refuse_reserve = set()
        answer = [i for output in await collect(generation) for i in output.token_ids]
        await engine.close()
        assert answer[0::2] == answer[1::2] and rule.accepted == answer
        return answer

    undisturbed, _ = answer_under(FakeConstraint(pairs), NoisyRunner(), max_tokens=80)
    assert asyncio.run(run()) == undisturbed


@pytest.mark.parametrize("fail_after", [0, 5])
def test_a_rule_that_fails_ends_its_own_answer_only(fail_after: int) -> None:
    async def run() -> None:
        engine = started(fake_backend(NoisyRunner()), max_draft_tokens=7)
        other = submitted(engine, FakeConstraint(pairs), (4, 5), max_tokens=60)
        with pytest.raises(ApplianceError, match="told so"):
            await under(engine, FakeConstraint(pairs, fail_after=fail_after), (1, 2, 3))
        assert len([i for output in await collect(other) for i in output.token_ids]) == 60
        # Its slot is free, and what it knew is of use to the next one.
        again = await under(engine, None, (1, 2, 3))
        assert again[0].num_cached_tokens == 2
        await engine.close()
        assert engine.death is None and engine.num_open == 0

    asyncio.run(run())
