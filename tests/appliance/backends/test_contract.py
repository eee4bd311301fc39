"""What every variant behind the KV seam must do, asked of fakes, stateful and paged alike.

The real ones run here in float32 without quantised activations: then the same tokens give the
same ids however they are cut into chunks, and what differs is wrong bookkeeping. How far the
service's own settings drift is `test_rounding.py`'s question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray
from openvino import CompiledModel, Core

from appliance.backends.base import Backend, Chunk, Slot
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.create import compile_options
from appliance.backends.paged.model import compile_paged
from appliance.backends.paged.runner import PagedRunner
from appliance.backends.stateful import batch as stateful_batch
from appliance.backends.stateful.host_blocks import HostBlocks, KVShape
from appliance.backends.stateful.model import add_new_kv, compile_stateful
from appliance.backends.stateful.runner import StatefulRunner
from appliance.chat.tokenizer import Tokenizer
from appliance.config import EngineConfig
from appliance.model_dir import read_manifest
from tests import tiny_ir
from tests.fakes import FakeRunner, fake_backend

NUM_ANSWERED = 8


class Variant(Protocol):
    """One variant to ask: how to make a backend with nothing in it, and prompts it can take."""

    prompts: list[tuple[int, ...]]
    tolerance: float

    def new(self) -> Backend: ...


@dataclass
class Fake:
    max_slots: int
    mixes_phases: bool = False
    prompts: list[tuple[int, ...]] = field(
        default_factory=lambda: [
            tuple(range(20)),
            (*range(19), 77, 78),
            (0, 1, 2, 50, 51, 52),
            (200,),
            tuple(range(30, 70)),
        ]
    )
    tolerance: float = 0

    def new(self) -> Backend:
        return fake_backend(
            FakeRunner(max_slots=self.max_slots, mixes_phases=self.mixes_phases, max_model_len=128)
        )


class Stateful:
    """The stateful variant on a model compiled once. Prompts share beginnings of some length."""

    # Of logits that reach from -15 to 25.
    tolerance = 0.05

    def __init__(
        self,
        compiled: CompiledModel,
        shape: KVShape,
        vocab_size: int,
        prompts: list[tuple[int, ...]],
    ) -> None:
        self._compiled = compiled
        self._shape = shape
        self._vocab_size = vocab_size
        self.prompts = prompts

    def new(self) -> Backend:
        kv = BlockKVCache(num_blocks=200, max_slots=3, max_model_len=2048, bytes_per_block=1)
        runner = StatefulRunner(
            self._compiled,
            kv,
            HostBlocks(kv.num_blocks, self._shape, "f32"),
            max_slots=3,
            max_model_len=2048,
            vocab_size=self._vocab_size,
        )
        return Backend(kv, runner, description="stateful")


def stateful_on_the_tiny_ir() -> Stateful:
    float32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    model = tiny_ir.model(tiny_ir.Weights())
    add_new_kv(model)
    compiled = Core().compile_model(model, "CPU", float32)
    prompts = [tuple(i % tiny_ir.VOCAB_SIZE for i in ids) for ids in Fake(1).prompts]
    return Stateful(compiled, KVShape(2, 1, tiny_ir.DIM), tiny_ir.VOCAB_SIZE, prompts)


def stateful_on_the_real_model(model_dir: Path, cache_dir: Path) -> Stateful:
    config = EngineConfig(
        inference_precision="f32",
        dynamic_quantization_group_size=0,
        kv_cache_precision="f32",
        compile_cache_dir=cache_dir,
    )
    model = read_manifest(model_dir).architecture
    return Stateful(
        compile_stateful(model_dir, compile_options(config)),
        KVShape(2 * model.num_layers, model.num_kv_heads, model.head_dim),
        model.vocab_size,
        real_prompts(model_dir),
    )


def real_prompts(model_dir: Path) -> list[tuple[int, ...]]:
    encode = Tokenizer(model_dir).encode
    return [
        encode("1, 2, 3, 4, 5, 6, 7, 8, 9,"),
        encode("1, 2, 3, 4, 5, 6, a, b, c, d,"),
        encode("一二三四五六七八九十 一二三四五六七八九十 一二三"),
        encode("def fibonacci(n):\n    if n < 2:\n        return n\n    return"),
        encode("a b c d e f g h"),
    ]


class Paged:
    """The paged variant on a model compiled once."""

    tolerance = 0.05
    max_slots = 3

    def __init__(self, model_dir: Path, cache_dir: Path) -> None:
        config = EngineConfig(
            inference_precision="f32",
            dynamic_quantization_group_size=0,
            kv_cache_precision="f32",
            compile_cache_dir=cache_dir,
        )
        self._compiled = compile_paged(model_dir, compile_options(config))
        self._vocab_size = read_manifest(model_dir).architecture.vocab_size
        self.prompts = real_prompts(model_dir)

    def new(self) -> Backend:
        kv = BlockKVCache(
            num_blocks=200, max_slots=self.max_slots, max_model_len=2048, bytes_per_block=1
        )
        runner = PagedRunner(
            self._compiled,
            kv,
            max_slots=self.max_slots,
            max_model_len=2048,
            vocab_size=self._vocab_size,
        )
        return Backend(kv, runner, description="paged")


@pytest.fixture(
    scope="module",
    params=[
        "fake-1",
        "fake-3",
        "fake-mixing",
        "stateful-tiny",
        pytest.param("stateful", marks=pytest.mark.model),
        pytest.param("paged", marks=pytest.mark.model),
    ],
)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Variant:
    if request.param == "stateful-tiny":
        return stateful_on_the_tiny_ir()
    if request.param == "stateful":
        model_dir: Path = request.getfixturevalue("model_dir")
        return stateful_on_the_real_model(model_dir, tmp_path_factory.mktemp("compile-cache"))
    if request.param == "paged":
        return Paged(request.getfixturevalue("model_dir"), tmp_path_factory.mktemp("paged-cache"))
    return {"fake-1": Fake(1), "fake-3": Fake(3), "fake-mixing": Fake(3, mixes_phases=True)}[
        request.param
    ]


@pytest.fixture(scope="module")
def uncached(variant: Variant) -> dict[tuple[int, ...], list[int]]:
    """Greedy ids of each prompt, each on a backend that holds nothing else, in one chunk."""
    answers = {}
    for prompt_ids in variant.prompts:
        backend = variant.new()
        answers[prompt_ids], _ = generate(backend, prompt_ids)
        backend.runner.close()
    return answers


@pytest.fixture
def backend(variant: Variant) -> Iterator[Backend]:
    backend = variant.new()
    yield backend
    backend.kv.check_integrity()
    assert backend.kv.stats().num_slots_used == 0
    backend.runner.close()


@pytest.fixture(params=["seldom squeezed", "often squeezed"])
def trimmed_backend(
    request: pytest.FixtureRequest, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> Backend:
    """A backend whose limits for holes are as they are, or passed all the time."""
    if request.param == "often squeezed":
        monkeypatch.setattr(stateful_batch, "_HOLES_PER_FILLED_POSITION", 0)
        monkeypatch.setattr(stateful_batch, "_HOLES_PER_FILLING", 2)
    return backend


def generate(
    backend: Backend,
    prompt_ids: tuple[int, ...],
    *,
    num_tokens: int = NUM_ANSWERED,
    prefill_chunk: int = 10_000,
    keep_prefix: bool = True,
) -> tuple[list[int], int]:
    """Greedy ids, and how many of the prompt's tokens came from the prefix cache."""
    allocation = backend.kv.allocate(prompt_ids)
    assert allocation is not None
    token_ids, computed = list(prompt_ids), allocation.num_cached_tokens
    assert 0 <= computed < len(token_ids), "at least one token is left to compute"
    while True:
        chunk_ids = tuple(token_ids[computed : computed + prefill_chunk])
        last = computed + len(chunk_ids) == len(token_ids)
        assert backend.kv.reserve(allocation.slot, len(chunk_ids))
        logits = backend.runner.forward([Chunk(allocation.slot, chunk_ids, computed, int(last))])
        assert logits.shape == (int(last), backend.runner.limits.vocab_size)
        backend.kv.commit(allocation.slot, chunk_ids)
        computed += len(chunk_ids)
        if last:
            token_ids.append(int(logits[0].argmax()))
        if len(token_ids) == len(prompt_ids) + num_tokens:
            backend.kv.free(allocation.slot, keep_prefix=keep_prefix)
            backend.kv.check_integrity()
            return token_ids[len(prompt_ids) :], allocation.num_cached_tokens


def seat(backend: Backend, token_ids: tuple[int, ...]) -> Slot:
    """A slot for a sequence whose tokens are given to the runner by hand."""
    allocation = backend.kv.allocate(token_ids)
    assert allocation is not None
    assert backend.kv.reserve(allocation.slot, len(token_ids))
    return allocation.slot


def forward_one(
    backend: Backend, *chunks: tuple[Slot, tuple[int, ...], int, int]
) -> NDArray[np.float32]:
    """One pass whose logits may be kept: the runner's own are valid until the next one."""
    return backend.runner.forward([Chunk(*chunk) for chunk in chunks]).copy()


def test_each_prompt_after_each_other_answers_as_if_alone(
    trimmed_backend: Backend, variant: Variant, uncached: dict[tuple[int, ...], list[int]]
) -> None:
    for shift in range(1, len(variant.prompts)):
        for i in range(len(variant.prompts)):
            prompt_ids = variant.prompts[(i * shift) % len(variant.prompts)]
            assert generate(trimmed_backend, prompt_ids)[0] == uncached[prompt_ids]


def test_a_repeated_prompt_answers_the_same_and_recomputes_one_token(
    trimmed_backend: Backend, variant: Variant, uncached: dict[tuple[int, ...], list[int]]
) -> None:
    prompt_ids = variant.prompts[0]
    assert generate(trimmed_backend, prompt_ids) == (uncached[prompt_ids], 0)
    for _ in range(3):
        cached = len(prompt_ids) - 1
        assert generate(trimmed_backend, prompt_ids) == (uncached[prompt_ids], cached)
        trimmed_backend.runner.idle()


def test_a_prompt_trimmed_anywhere_answers_as_if_alone(
    trimmed_backend: Backend, variant: Variant, uncached: dict[tuple[int, ...], list[int]]
) -> None:
    prompt_ids = variant.prompts[0]
    generate(trimmed_backend, prompt_ids)
    # Deep cuts first and shallow ones later: holes come to lie between tokens that count.
    for kept in (1, len(prompt_ids) // 2, 2, len(prompt_ids) - 1):
        other = prompt_ids[:kept] + variant.prompts[-1]
        _, cached = generate(trimmed_backend, other)
        assert cached >= kept
        answer, cached = generate(trimmed_backend, prompt_ids)
        assert answer == uncached[prompt_ids]
        assert cached >= kept


def test_a_conversation_that_goes_on_computes_only_what_is_new(
    backend: Backend, variant: Variant
) -> None:
    answer, _ = generate(backend, variant.prompts[0])
    longer = (*variant.prompts[0], *answer, *variant.prompts[-1])
    expected, cached = generate(variant.new(), longer)
    assert cached == 0
    # The answer's last token was never computed.
    assert generate(backend, longer) == (expected, len(variant.prompts[0]) + len(answer) - 1)


def test_nothing_is_left_of_a_prefix_that_is_not_kept(
    backend: Backend, variant: Variant, uncached: dict[tuple[int, ...], list[int]]
) -> None:
    first, second = variant.prompts[:2]
    generate(backend, first, keep_prefix=False)
    assert backend.kv.stats().num_tokens == 0
    assert generate(backend, second, keep_prefix=False) == (uncached[second], 0)
    assert generate(backend, first, keep_prefix=False) == (uncached[first], 0)


@pytest.mark.parametrize("prefill_chunk", [1, 7])
def test_a_prompt_in_chunks_answers_as_in_one(
    backend: Backend,
    variant: Variant,
    uncached: dict[tuple[int, ...], list[int]],
    prefill_chunk: int,
) -> None:
    for prompt_ids in variant.prompts[:3]:
        answer, _ = generate(backend, prompt_ids, prefill_chunk=prefill_chunk)
        assert answer == uncached[prompt_ids]


def test_a_prefill_that_was_broken_off_is_gone_on_with(
    backend: Backend, variant: Variant, uncached: dict[tuple[int, ...], list[int]]
) -> None:
    prompt_ids = variant.prompts[0]
    slot = seat(backend, prompt_ids)
    forward_one(backend, (slot, prompt_ids[:4], 0, 0))
    backend.kv.commit(slot, prompt_ids[:4])
    backend.kv.free(slot, keep_prefix=True)
    assert generate(backend, prompt_ids) == (uncached[prompt_ids], 4)


@pytest.mark.parametrize("num_logits", [0, 1, 2, 5])
def test_as_many_positions_have_logits_as_were_asked_for(
    backend: Backend, variant: Variant, num_logits: int
) -> None:
    prompt_ids = variant.prompts[0]
    slot = seat(backend, prompt_ids)
    together = forward_one(backend, (slot, prompt_ids, 0, num_logits)).copy()
    backend.kv.free(slot, keep_prefix=False)
    assert together.shape == (num_logits, backend.runner.limits.vocab_size)
    assert together.dtype == np.float32
    single = variant.new()
    slot = seat(single, prompt_ids)
    for position, token_id in enumerate(prompt_ids):
        alone = forward_one(single, (slot, (token_id,), position, 1))[0]
        row = position - (len(prompt_ids) - num_logits)
        if row >= 0:
            assert np.abs(alone - together[row]).max() <= variant.tolerance
            assert alone.argmax() == together[row].argmax()


def test_what_lies_at_and_behind_a_chunk_s_start_is_discarded(
    trimmed_backend: Backend, variant: Variant
) -> None:
    """How drafts are verified: several tokens at once, then on from the last one that was right."""
    backend, prompt_ids = trimmed_backend, variant.prompts[0]
    length = len(prompt_ids)
    slot = seat(backend, (*prompt_ids, 0, 0, 0))
    right = forward_one(backend, (slot, prompt_ids, 0, 1))[0]
    for kept in (length - 1, 3, length - 4):
        wrong = tuple(reversed(prompt_ids[:3]))
        forward_one(backend, (slot, prompt_ids[1:], 1, 0))
        assert forward_one(backend, (slot, wrong, kept, 3)).shape[0] == 3
        again = forward_one(backend, (slot, prompt_ids[kept:], kept, 1))[0]
        assert np.abs(again - right).max() <= variant.tolerance
    backend.kv.free(slot, keep_prefix=False)


@pytest.mark.parametrize(
    "variant",
    [
        "fake-3",
        "fake-mixing",
        "stateful-tiny",
        pytest.param("stateful", marks=pytest.mark.model),
        pytest.param("paged", marks=pytest.mark.model),
    ],
    indirect=True,
)
def test_the_order_of_chunks_does_not_matter(backend: Backend, variant: Variant) -> None:
    other = variant.new()
    prompts = variant.prompts[: backend.runner.limits.max_slots]
    # Where phases do not mix, only tokens that decode share a pass: the beginnings come before.
    num_before = [0 if backend.runner.limits.mixes_phases else len(p) - 1 for p in prompts]
    chunks = []
    for prompt_ids, start in zip(prompts, num_before, strict=True):
        slots = {seat(one, prompt_ids) for one in (backend, other)}
        assert len(slots) == 1, "both backends seat alike"
        (slot,) = slots
        for one in (backend, other):
            if start:
                forward_one(one, (slot, prompt_ids[:start], 0, 0))
        chunks.append((slot, prompt_ids[start:], start, 1))
    forwards, backwards = forward_one(backend, *chunks), forward_one(other, *reversed(chunks))
    assert len(forwards) == len(chunks) > 1
    assert np.abs(forwards - backwards[::-1]).max() <= variant.tolerance
    assert np.abs(forwards - backwards).max() > variant.tolerance
    for slot, *_ in chunks:
        backend.kv.free(slot, keep_prefix=False)


def test_there_is_no_seat_when_all_are_taken(backend: Backend, variant: Variant) -> None:
    seats = []
    for _ in range(backend.runner.limits.max_slots):
        allocation = backend.kv.allocate(variant.prompts[0])
        assert allocation is not None
        seats.append(allocation.slot)
    assert len(set(seats)) == len(seats)
    assert backend.kv.stats().num_slots_used == len(seats)
    assert backend.kv.allocate(variant.prompts[0]) is None
    backend.kv.free(seats[0], keep_prefix=True)
    again = backend.kv.allocate(variant.prompts[1])
    assert again is not None and again.slot == seats[0]
    for slot in seats:
        backend.kv.free(slot, keep_prefix=False)
        backend.kv.free(slot, keep_prefix=False)
    assert backend.kv.stats().num_slots_used == 0


def test_no_slot_takes_more_than_the_context(backend: Backend, variant: Variant) -> None:
    max_model_len = backend.runner.limits.max_model_len
    assert backend.kv.allocate((5,) * (max_model_len + 1)) is None
    allocation = backend.kv.allocate((5,) * max_model_len)
    assert allocation is not None
    assert backend.kv.reserve(allocation.slot, max_model_len)
    assert not backend.kv.reserve(allocation.slot, max_model_len + 1)
    backend.kv.commit(allocation.slot, (5,) * max_model_len)
    assert not backend.kv.reserve(allocation.slot, 1)
    backend.kv.free(allocation.slot, keep_prefix=False)


def test_the_books_count_tokens_asked_for_and_found(backend: Backend, variant: Variant) -> None:
    prompt_ids = variant.prompts[0]
    generate(backend, prompt_ids, num_tokens=3)
    first = backend.kv.stats()
    assert (first.num_queried_tokens, first.num_hit_tokens) == (len(prompt_ids), 0)
    assert first.num_tokens == len(prompt_ids) + 2
    assert first.num_bytes > 0
    generate(backend, prompt_ids, num_tokens=3)
    second = backend.kv.stats()
    assert second.num_queried_tokens == 2 * len(prompt_ids)
    assert second.num_hit_tokens == len(prompt_ids) - 1


def test_idle_changes_nothing_that_can_be_seen(
    trimmed_backend: Backend, variant: Variant, uncached: dict[tuple[int, ...], list[int]]
) -> None:
    first, second = variant.prompts[:2]
    trimmed_backend.runner.idle()
    generate(trimmed_backend, first)
    generate(trimmed_backend, second)
    stats = trimmed_backend.kv.stats()
    trimmed_backend.runner.idle()
    trimmed_backend.runner.idle()
    assert trimmed_backend.kv.stats() == stats
    answer, cached = generate(trimmed_backend, second)
    assert (answer, cached) == (uncached[second], len(second) - 1)
    assert generate(trimmed_backend, first)[0] == uncached[first]
