"""The stateful runner on a small model that a dense computation checks: holes, cuts, squeezing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
import pytest

from appliance.backends.base import Chunk, Slot
from appliance.backends.stateful import runner as runner_module
from appliance.backends.stateful.runner import StatefulRunner
from appliance.errors import BackendError
from tests.tiny_ir import VOCAB_SIZE, Weights, model, reference_logits

MAX_HOLES = runner_module._MAX_HOLES
MAX_HOLES_WHEN_IDLE = runner_module._MAX_HOLES_WHEN_IDLE
WEIGHTS = Weights()
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


class Compiled:
    """A compiled model that lets its infer request's state be looked at."""

    def __init__(self) -> None:
        self._compiled = ov.Core().compile_model(model(WEIGHTS), "CPU", FLOAT32)

    def create_infer_request(self) -> ov.InferRequest:
        self.request = self._compiled.create_infer_request()
        return self.request

    @property
    def state_length(self) -> int:
        """Positions in the state, tokens and holes."""
        (length,) = {variable.state.shape[2] for variable in self.request.query_state()}
        return int(length)


class Row:
    """The one row of a runner, driven as the scheduler does; knows which tokens must count."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self.runner = StatefulRunner(compiled, max_model_len=4096, vocab_size=VOCAB_SIZE)
        self.token_ids: list[int] = []
        self._random = np.random.default_rng(0)

    def forward(self, start: int, num_tokens: int, num_logits: int = 1) -> None:
        """Cut to `start`, compute `num_tokens` random ones, and check every logit asked for."""
        new = self._random.integers(0, VOCAB_SIZE, num_tokens).tolist()
        self.token_ids = [*self.token_ids[:start], *new]
        logits = self.runner.forward([Chunk(Slot(0), tuple(new), start, num_logits)])
        assert logits.shape == (num_logits, VOCAB_SIZE)
        assert logits.dtype == np.float32
        if num_logits:
            expected = reference_logits(WEIGHTS, self.token_ids)[-num_logits:]
            assert np.abs(logits - expected).max() < 1e-3

    @property
    def num_holes(self) -> int:
        return self.compiled.state_length - len(self.token_ids)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def row(compiled: Compiled) -> Row:
    return Row(compiled)


def test_the_small_model_is_the_dense_computation(row: Row) -> None:
    row.forward(0, 12, num_logits=12)
    for _ in range(5):
        row.forward(len(row.token_ids), 1)
    assert row.num_holes == 0


def test_what_is_cut_stays_as_holes_that_do_not_count(row: Row) -> None:
    row.forward(0, 20)
    row.forward(15, 3, num_logits=3)
    assert row.num_holes == 5
    row.forward(4, 2)
    assert row.num_holes == 5 + 14
    row.forward(len(row.token_ids), 1)
    assert row.num_holes == 19


def test_a_start_at_the_end_cuts_nothing(row: Row) -> None:
    row.forward(0, 20)
    row.forward(20, 5, num_logits=2)
    assert row.num_holes == 0


def test_a_start_at_zero_empties_the_state(row: Row) -> None:
    row.forward(0, 20)
    row.forward(5, 10)
    row.forward(0, 3, num_logits=3)
    assert (row.compiled.state_length, row.num_holes) == (3, 0)


def test_a_runner_begins_empty(compiled: Compiled) -> None:
    Row(compiled).forward(0, 20)
    row = Row(compiled)
    row.forward(0, 4)
    assert row.compiled.state_length == 4


def test_as_many_holes_as_allowed_are_kept_and_one_more_is_too_many(row: Row) -> None:
    row.forward(0, MAX_HOLES + 10)
    row.forward(10, 5)
    assert row.num_holes == MAX_HOLES
    row.forward(14, 1)
    assert row.num_holes == 0
    row.forward(len(row.token_ids), 3, num_logits=3)
    row.forward(6, 2)
    assert row.num_holes == len(range(6, 18))


def test_idle_squeezes_earlier_and_not_for_a_few(row: Row) -> None:
    row.forward(0, MAX_HOLES_WHEN_IDLE + 20)
    row.forward(20, 1)
    assert row.num_holes == MAX_HOLES_WHEN_IDLE
    row.runner.idle()
    assert row.num_holes == MAX_HOLES_WHEN_IDLE
    row.forward(20, 1)
    assert row.num_holes == MAX_HOLES_WHEN_IDLE + 1
    row.runner.idle()
    assert row.num_holes == 0
    row.forward(len(row.token_ids), 4, num_logits=4)
    row.forward(3, 4, num_logits=4)


def test_a_row_longer_than_the_mask_s_first_room(row: Row) -> None:
    row.forward(0, 700)
    row.forward(600, 900, num_logits=3)
    assert row.num_holes == 100
    row.forward(1500, 1500, num_logits=3)
    row.forward(2999, 2)
    assert row.num_holes == 101


@pytest.mark.parametrize("max_holes", [0, 7, MAX_HOLES])
def test_any_order_of_cuts_and_chunks_computes_what_counts(
    row: Row, monkeypatch: pytest.MonkeyPatch, max_holes: int
) -> None:
    monkeypatch.setattr(runner_module, "_MAX_HOLES", max_holes)
    monkeypatch.setattr(runner_module, "_MAX_HOLES_WHEN_IDLE", max_holes // 2)
    random = np.random.default_rng(1)
    for _ in range(150):
        length = len(row.token_ids)
        # Mostly a step or a few drafts taken back, now and then another prompt.
        start = length - int(random.integers(0, 4)) if random.random() < 0.8 else 0
        start = max(0, start if random.random() < 0.9 else int(random.integers(0, length + 1)))
        num_tokens = int(random.integers(1, 20))
        row.forward(start, num_tokens, int(random.integers(0, num_tokens + 1)))
        assert row.num_holes <= max_holes
        if random.random() < 0.2:
            row.runner.idle()
            assert row.num_holes <= max_holes // 2


def test_close_gives_the_kv_back(row: Row) -> None:
    row.forward(0, 20)
    row.runner.close()
    assert row.compiled.state_length == 0
    row.runner.close()


def test_limits_are_what_the_scheduler_asks_for(row: Row) -> None:
    limits = row.runner.limits
    assert (limits.max_slots, limits.mixes_phases) == (1, False)
    assert (limits.max_model_len, limits.vocab_size) == (4096, VOCAB_SIZE)


def test_what_openvino_cannot_compute_is_a_backend_error(compiled: Compiled) -> None:
    class Refusing:
        """An infer request on a machine that has run out of memory."""

        def infer(self, inputs: Mapping[str, object], share_inputs: bool) -> None:
            raise RuntimeError("could not allocate 7 bytes")

        def reset_state(self) -> None:
            pass

    class RefusingCompiled:
        def create_infer_request(self) -> Refusing:
            return Refusing()

    broken = StatefulRunner(RefusingCompiled(), max_model_len=16, vocab_size=VOCAB_SIZE)
    with pytest.raises(BackendError, match="could not allocate 7 bytes") as caught:
        broken.forward([Chunk(Slot(0), (1, 2), 0, 1)])
    assert isinstance(caught.value.__cause__, RuntimeError)
