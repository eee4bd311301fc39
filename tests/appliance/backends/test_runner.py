"""The stateful runner on a small model: every logit is checked by a dense computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import openvino as ov
import pytest

from appliance.backends.base import Chunk, Slot
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.stateful import batch as batch_module
from appliance.backends.stateful import runner as runner_module
from appliance.backends.stateful.host_blocks import HostBlocks, KVShape
from appliance.backends.stateful.model import add_new_kv
from appliance.backends.stateful.runner import StatefulRunner
from appliance.errors import BackendError
from tests.tiny_ir import DIM, VOCAB_SIZE, Weights, model, reference_logits

WEIGHTS = Weights()
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
SHAPE = KVShape(num_variables=2, num_heads=1, head_dim=DIM)
NUM_BLOCKS = 300
MAX_SLOTS = 4


class CountingRequest:
    """An infer request whose passes are counted and whose state can be looked at."""

    def __init__(self, request: ov.InferRequest) -> None:
        self._request = request
        self.shapes: list[tuple[int, int]] = []
        self.num_resets = 0

    def infer(self, inputs: Mapping[str, np.ndarray], **options: bool) -> None:
        rows, tokens = inputs["input_ids"].shape
        self.shapes.append((rows, tokens))
        self._request.infer(inputs, **options)

    def reset_state(self) -> None:
        self.num_resets += 1
        self._request.reset_state()

    def query_state(self) -> list[ov.VariableState]:
        return list(self._request.query_state())

    def get_output_tensor(self, index: int) -> ov.Tensor:
        return self._request.get_output_tensor(index)

    @property
    def state_length(self) -> int:
        """Positions in the state, tokens and holes."""
        (length,) = {variable.state.shape[2] for variable in self._request.query_state()}
        return int(length)


class Compiled:
    """A compiled model that remembers its infer requests."""

    def __init__(self) -> None:
        edited = model(WEIGHTS)
        add_new_kv(edited)
        self._compiled = ov.Core().compile_model(edited, "CPU", FLOAT32)
        self.requests: list[CountingRequest] = []

    def create_infer_request(self) -> CountingRequest:
        self.requests.append(CountingRequest(self._compiled.create_infer_request()))
        return self.requests[-1]

    def take_shapes(self) -> list[tuple[int, int]]:
        """(rows, tokens) of the passes since the last call."""
        shapes = [shape for request in self.requests for shape in request.shapes]
        for request in self.requests:
            request.shapes.clear()
        return shapes


class Sequences:
    """A backend driven as the engine does; knows which tokens each slot must hold."""

    def __init__(self, compiled: Compiled) -> None:
        compiled.requests.clear()
        self.compiled = compiled
        self.kv = BlockKVCache(
            num_blocks=NUM_BLOCKS, max_slots=MAX_SLOTS, max_model_len=4000, bytes_per_block=1
        )
        self.runner = StatefulRunner(
            compiled,
            self.kv,
            HostBlocks(NUM_BLOCKS, SHAPE, "f32"),
            max_slots=MAX_SLOTS,
            max_model_len=4000,
            vocab_size=VOCAB_SIZE,
        )
        self.texts: dict[Slot, list[int]] = {}
        self._random = np.random.default_rng(0)
        self._num_prompts = 0

    def random_ids(self, number: int) -> list[int]:
        ids: list[int] = self._random.integers(0, VOCAB_SIZE, number).tolist()
        return ids

    def prompt(self, number: int) -> list[int]:
        """As many random tokens, of which the first is another one each time."""
        self._num_prompts += 1
        return [self._num_prompts % VOCAB_SIZE, *self.random_ids(number - 1)]

    def start(self, prompt_ids: Sequence[int], chunk: int = 10_000) -> Slot:
        """Seat a sequence and prefill it."""
        allocation = self.kv.allocate(prompt_ids)
        assert allocation is not None
        slot, at = allocation.slot, allocation.num_cached_tokens
        self.texts[slot] = list(prompt_ids[:at])
        while at < len(prompt_ids):
            self.step({slot: prompt_ids[at : at + chunk]})
            at += chunk
        return slot

    def step(
        self, new: Mapping[Slot, Sequence[int]], rejected: Mapping[Slot, int] | None = None
    ) -> None:
        """One pass with these tokens, all logits checked; then forget the `rejected` last ones."""
        chunks, expected = [], []
        for slot, token_ids in new.items():
            start = len(self.texts[slot])
            assert self.kv.reserve(slot, len(token_ids))
            chunks.append(Chunk(slot, tuple(token_ids), start, len(token_ids)))
            self.texts[slot] += token_ids
            expected.append(reference_logits(WEIGHTS, self.texts[slot])[start:])
        logits = self.runner.forward(chunks)
        assert logits.dtype == np.float32
        assert np.abs(logits - np.concatenate(expected)).max() < 1e-3
        for slot, token_ids in new.items():
            kept = len(token_ids) - (rejected or {}).get(slot, 0)
            self.kv.commit(slot, token_ids[:kept])
            del self.texts[slot][len(self.texts[slot]) - len(token_ids) + kept :]

    def decode(self, *slots: Slot, times: int = 1) -> None:
        for _ in range(times):
            self.step({slot: self.random_ids(1) for slot in slots})

    def end(self, slot: Slot) -> None:
        self.kv.free(slot, keep_prefix=True)
        del self.texts[slot]


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def sequences(compiled: Compiled) -> Sequences:
    return Sequences(compiled)


def test_the_small_model_is_the_dense_computation(sequences: Sequences) -> None:
    slot = sequences.start(sequences.prompt(12))
    sequences.decode(slot, times=5)
    assert sequences.compiled.take_shapes() == [(1, 12)] + [(1, 1)] * 5


def test_a_prompt_is_prefilled_alone_and_decodes_with_the_others(sequences: Sequences) -> None:
    first = sequences.start(sequences.prompt(30))
    sequences.decode(first, times=3)
    sequences.compiled.take_shapes()
    second = sequences.start(sequences.prompt(70))
    assert sequences.compiled.take_shapes() == [(1, 70)]
    sequences.decode(first, second, times=3)
    assert sequences.compiled.take_shapes() == [(2, 1)] * 3
    third = sequences.start(sequences.prompt(5), chunk=2)
    assert sequences.compiled.take_shapes() == [(1, 2), (1, 2), (1, 1)]
    sequences.decode(second, third, first)
    assert sequences.compiled.take_shapes() == [(3, 1)]


def test_one_that_ends_leaves_and_the_others_go_on(sequences: Sequences) -> None:
    slots = [sequences.start(sequences.prompt(n)) for n in (40, 9, 17)]
    sequences.decode(*slots, times=2)
    sequences.end(slots[0])
    sequences.compiled.take_shapes()
    sequences.decode(slots[2], slots[1], times=4)
    sequences.end(slots[2])
    sequences.decode(slots[1], times=2)
    assert sequences.compiled.take_shapes() == [(3, 1)] + [(2, 1)] * 3 + [(1, 1)] * 2


def test_one_that_ended_comes_along_while_leaving_would_cost_more(sequences: Sequences) -> None:
    slots = [sequences.start(sequences.prompt(600)) for _ in range(3)]
    sequences.decode(*slots)
    (filled,) = {request for request in sequences.compiled.requests if request.state_length == 601}
    sequences.end(slots[0])
    sequences.compiled.take_shapes()
    sequences.decode(*slots[1:], times=3)
    assert sequences.compiled.take_shapes() == [(3, 1)] * 3
    assert filled.state_length == 604, "nothing was filled anew"
    newcomer = sequences.start(sequences.prompt(600))
    sequences.compiled.take_shapes()
    sequences.decode(newcomer, *slots[1:], times=10)
    assert sequences.compiled.take_shapes() == [(3, 1)] * 10, "it left when another one joined"
    sequences.end(newcomer)
    sequences.decode(*slots[1:], times=10)
    assert sequences.compiled.take_shapes()[-1] == (2, 1)


def test_one_that_ended_leaves_before_a_pass_of_many_tokens(sequences: Sequences) -> None:
    slots = [sequences.start(sequences.prompt(600)) for _ in range(3)]
    sequences.decode(*slots)
    sequences.end(slots[0])
    sequences.compiled.take_shapes()
    sequences.step({slot: sequences.random_ids(20) for slot in slots[1:]})
    assert sequences.compiled.take_shapes() == [(2, 20)]


def test_a_row_that_came_along_can_be_gone_on_with(sequences: Sequences) -> None:
    slots = [sequences.start(sequences.prompt(300)) for _ in range(2)]
    sequences.decode(*slots)
    text = list(sequences.texts[slots[0]])
    sequences.end(slots[0])
    sequences.decode(slots[1])
    sequences.end(slots[1])
    slot = sequences.start([*text, 1, 2, 3])
    sequences.decode(slot, times=2)


def test_a_long_one_does_not_make_the_short_ones_long(sequences: Sequences) -> None:
    long = sequences.start(sequences.prompt(runner_module._MAX_PADDING - 100))
    short = [sequences.start(sequences.prompt(20)) for _ in range(3)]
    sequences.compiled.take_shapes()
    sequences.decode(long, *short, times=2)
    assert sorted(sequences.compiled.take_shapes()) == [(1, 1)] * 2 + [(3, 1)] * 2


def test_joining_waits_until_passes_apart_have_cost_as_much(sequences: Sequences) -> None:
    length = runner_module._POSITIONS_WORTH_A_PASS
    slots = [sequences.start(sequences.prompt(length)) for _ in range(2)]
    sequences.compiled.take_shapes()
    sequences.decode(*slots, times=6)
    assert sorted(sequences.compiled.take_shapes()) == [(1, 1)] * 4 + [(2, 1)] * 4


def test_rejected_drafts_of_different_lengths(sequences: Sequences) -> None:
    slots = [sequences.start(sequences.prompt(n)) for n in (12, 33, 5)]
    for _ in range(30):
        drafts = {slot: sequences.random_ids(1 + (slot * 2) % 5) for slot in slots}
        sequences.step(drafts, rejected={slot: len(ids) - 1 for slot, ids in drafts.items()})
    assert sequences.compiled.take_shapes().count((3, 5)) == 30


def test_a_row_that_sits_out_a_pass_is_as_it_was(sequences: Sequences) -> None:
    slots = [sequences.start(sequences.prompt(n)) for n in (12, 33, 5)]
    sequences.decode(*slots)
    sequences.compiled.take_shapes()
    sequences.decode(slots[1])
    sequences.step({slots[0]: sequences.random_ids(3)})
    assert sequences.compiled.take_shapes() == [(3, 1), (3, 3)]
    sequences.decode(*slots, times=2)


def test_the_next_turn_goes_on_where_the_last_one_ended(sequences: Sequences) -> None:
    slot = sequences.start(sequences.prompt(50))
    sequences.decode(slot, times=3)
    text = list(sequences.texts[slot])
    sequences.end(slot)
    num_requests = len(sequences.compiled.requests)
    sequences.compiled.take_shapes()
    slot = sequences.start([*text, 1, 2, 3])
    assert sequences.compiled.take_shapes() == [(1, 3)]
    assert len(sequences.compiled.requests) == num_requests
    assert sequences.compiled.requests[0].state_length == len(text) + 3, "nothing was filled anew"
    sequences.decode(slot)


def test_a_known_text_is_filled_in_when_its_row_is_gone(sequences: Sequences) -> None:
    text = sequences.prompt(50)
    sequences.end(sequences.start(text))
    for _ in range(5):
        sequences.end(sequences.start(sequences.prompt(20)))
    sequences.compiled.take_shapes()
    slot = sequences.start([*text, 1, 2, 3])
    assert sequences.compiled.take_shapes() == [(1, 3)]
    sequences.decode(slot)


def test_a_beginning_is_shared_by_those_who_run(sequences: Sequences) -> None:
    system = sequences.prompt(40)
    first = sequences.start([*system, 1, 2])
    sequences.decode(first, times=2)
    second = sequences.start([*system, 3, 4, 5])
    sequences.decode(first, second)
    third = sequences.start(system)
    sequences.compiled.take_shapes()
    sequences.decode(first, second, third, times=2)
    assert sequences.compiled.take_shapes() == [(3, 1)] * 2
    assert sequences.kv.stats().num_hit_tokens == 40 + 39


def test_one_of_many_that_have_ended_is_gone_on_with(sequences: Sequences) -> None:
    slots = [sequences.start(sequences.prompt(n)) for n in (12, 33, 5)]
    sequences.decode(*slots, times=2)
    texts = [list(sequences.texts[slot]) for slot in slots]
    for slot in slots:
        sequences.end(slot)
    sequences.compiled.take_shapes()
    slot = sequences.start([*texts[1], 7])
    sequences.decode(slot)
    assert sequences.compiled.take_shapes() == [(1, 1)] * 2


def test_holes_go_when_they_have_cost_more_than_that(
    sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_HOLES_PER_FILLING", 100)
    slot = sequences.start(sequences.prompt(20))
    (request,) = sequences.compiled.requests
    sequences.step({slot: sequences.random_ids(30)}, rejected={slot: 30})
    assert request.state_length == 50
    sequences.decode(slot, times=2)
    assert request.state_length == 52
    sequences.decode(slot, times=10)
    assert request.state_length == 32


def test_holes_go_at_once_before_a_long_chunk(sequences: Sequences) -> None:
    slot = sequences.start(sequences.prompt(20))
    sequences.step({slot: sequences.random_ids(100)}, rejected={slot: 100})
    sequences.step({slot: sequences.random_ids(100)})
    (request,) = sequences.compiled.requests
    assert request.state_length == 120


def test_idle_gives_back_what_nobody_is_likely_to_go_on_with(sequences: Sequences) -> None:
    texts = [sequences.prompt(20 + n) for n in range(4)]
    slots = [sequences.start(text) for text in texts]
    sequences.runner.idle()
    sequences.decode(*slots)
    for slot in slots:
        sequences.end(slot)
    sequences.runner.idle()
    assert len(sequences.runner._batches) <= runner_module._MAX_RESIDENT
    for text in texts:
        slot = sequences.start([*text, 5])
        sequences.decode(slot)
        sequences.end(slot)


def test_close_gives_the_kv_back(sequences: Sequences) -> None:
    sequences.start(sequences.prompt(20))
    sequences.runner.close()
    assert not sequences.runner._batches
    sequences.runner.close()


@pytest.mark.parametrize("filling", [0, batch_module._HOLES_PER_FILLING])
@pytest.mark.parametrize("padding", [60, runner_module._MAX_PADDING])
def test_any_order_of_events_computes_what_counts(
    sequences: Sequences, monkeypatch: pytest.MonkeyPatch, filling: int, padding: int
) -> None:
    monkeypatch.setattr(batch_module, "_HOLES_PER_FILLING", filling)
    monkeypatch.setattr(batch_module, "_HOLES_PER_FILLED_POSITION", 7 if filling else 0)
    monkeypatch.setattr(runner_module, "_MAX_PADDING", padding)
    random = np.random.default_rng(1)
    known: list[list[int]] = [[]]
    for _ in range(300):
        slots = list(sequences.texts)
        if len(slots) < MAX_SLOTS and random.random() < 0.2:
            text = known[int(random.integers(0, len(known)))]
            beginning = text[: int(random.integers(0, len(text) + 1))]
            sequences.start([*beginning, *sequences.random_ids(int(random.integers(1, 50)))], 16)
        elif slots and random.random() < 0.15:
            slot = slots[int(random.integers(0, len(slots)))]
            known.append(list(sequences.texts[slot]))
            sequences.end(slot)
            if random.random() < 0.3:
                sequences.runner.idle()
        elif slots:
            some = [slot for slot in slots if random.random() < 0.9] or slots
            new = {s: sequences.random_ids(int(random.integers(1, 5))) for s in some}
            sequences.step(new, {s: int(random.integers(0, len(ids))) for s, ids in new.items()})
        sequences.kv.check_integrity()
    assert max(rows for rows, _ in sequences.compiled.take_shapes()) == MAX_SLOTS


def test_limits_are_what_the_scheduler_asks_for(sequences: Sequences) -> None:
    limits = sequences.runner.limits
    assert (limits.max_slots, limits.mixes_phases) == (MAX_SLOTS, False)
    assert (limits.max_model_len, limits.vocab_size) == (4000, VOCAB_SIZE)


def test_what_openvino_cannot_compute_is_a_backend_error(sequences: Sequences) -> None:
    class Refusing:
        """An infer request on a machine that has run out of memory."""

        def infer(self, inputs: Mapping[str, object], **options: bool) -> None:
            raise RuntimeError("could not allocate 7 bytes")

        def query_state(self) -> list[object]:
            return []

        def reset_state(self) -> None:
            pass

    class RefusingCompiled:
        def create_infer_request(self) -> Refusing:
            return Refusing()

    sequences.runner._compiled = RefusingCompiled()
    allocation = sequences.kv.allocate((1, 2))
    assert allocation is not None and sequences.kv.reserve(allocation.slot, 2)
    with pytest.raises(BackendError, match="could not allocate 7 bytes") as caught:
        sequences.runner.forward([Chunk(allocation.slot, (1, 2), 0, 1)])
    assert isinstance(caught.value.__cause__, RuntimeError)
