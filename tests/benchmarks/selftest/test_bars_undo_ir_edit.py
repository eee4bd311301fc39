"""Our edit of the IR, undone for peers: logits of every position, and the same ones."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from provisioning.build_model.ir_edit import gather_before_lm_head
from tests import tiny_ir
from tests.benchmarks.peers.undo_ir_edit import undo_ir_edit
from tests.provisioning.build_model import stateful_lm

TOKENS = (3, 1, 4, 1, 5, 9, 2)


def logits_of(model: ov.Model) -> NDArray[np.float32]:
    request = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    count = len(TOKENS)
    result = request.create_infer_request().infer(
        {
            "input_ids": np.array([TOKENS], np.int64),
            "attention_mask": np.ones((1, count), np.int64),
            "position_ids": np.arange(count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
    )
    return np.array(result[0])


def names(model: ov.Model) -> set[str]:
    return {name for port in model.inputs for name in port.get_names()}


def test_the_tiny_model_gives_every_position_its_logits() -> None:
    weights = tiny_ir.Weights()
    model = tiny_ir.model(weights)
    undo_ir_edit(model)
    assert names(model) == {"input_ids", "attention_mask", "position_ids", "beam_idx"}
    logits = logits_of(model)
    assert logits.shape == (1, len(TOKENS), tiny_ir.VOCAB_SIZE)
    np.testing.assert_allclose(logits[0], tiny_ir.reference_logits(weights, TOKENS), atol=1e-4)


@pytest.mark.parametrize("after_head", ["nothing", "scale", "bias"])
def test_it_undoes_what_the_build_does(after_head: str) -> None:
    model = stateful_lm.make(after_head=after_head)
    ids = np.array([[1, 2, 3, 4, 5], [10, 9, 8, 7, 6]], np.int64)
    before = stateful_lm.run(model, ids)
    gather_before_lm_head(model)
    undo_ir_edit(model)
    after = stateful_lm.run(model, ids)
    assert after.shape == (2, 5, stateful_lm.VOCAB)
    np.testing.assert_allclose(after, before.reshape(after.shape), atol=1e-4)


def test_an_ir_whose_hidden_states_were_a_matrix_before_is_refused() -> None:
    model = stateful_lm.make(after_head="flat")
    gather_before_lm_head(model)
    with pytest.raises(ValueError, match="expected rank 3"):
        undo_ir_edit(model)


def test_an_ir_that_was_never_edited_is_refused() -> None:
    model = tiny_ir.model(tiny_ir.Weights())
    undo_ir_edit(model)
    with pytest.raises(ValueError, match="no input logits_indices"):
        undo_ir_edit(model)
