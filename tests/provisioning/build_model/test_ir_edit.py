from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from provisioning.build_model.architecture import read_architecture
from provisioning.build_model.errors import ConversionError
from provisioning.build_model.ir_edit import check_edited, gather_before_lm_head, is_edited
from provisioning.build_model.ir_session import IrSession, edit_changes_nothing
from tests.provisioning.build_model import stateful_lm

IDS = np.array([[1, 2, 3, 4, 5], [10, 9, 8, 7, 6]], np.int64)


@pytest.mark.parametrize("after_head", ["nothing", "scale", "bias", "cap", "half", "flat"])
def test_chosen_positions_keep_their_numbers(after_head: str) -> None:
    model = stateful_lm.make(after_head=after_head)
    every = stateful_lm.run(model, IDS).reshape(-1, stateful_lm.VOCAB)

    gather_before_lm_head(model)

    wanted = [9, 0, 4]
    np.testing.assert_allclose(
        stateful_lm.run(model, IDS, wanted), every[wanted], rtol=2e-3, atol=2e-3
    )


def test_no_position_at_all_gives_an_empty_matrix() -> None:
    model = stateful_lm.make()
    gather_before_lm_head(model)

    assert stateful_lm.run(model, IDS, []).shape == (0, stateful_lm.VOCAB)


def test_edited_ir_has_the_contract_of_the_run_world(tmp_path: Path) -> None:
    model = stateful_lm.make(after_head="half")
    gather_before_lm_head(model)
    ov.save_model(model, tmp_path / "openvino_model.xml", compress_to_fp16=False)

    read = ov.Core().read_model(tmp_path / "openvino_model.xml")

    assert [port.get_any_name() for port in read.inputs] == [
        "input_ids",
        "attention_mask",
        "position_ids",
        "beam_idx",
        "logits_indices",
    ]
    assert read.input("logits_indices").get_element_type() == ov.Type.i64
    assert read.output("logits").get_element_type() == ov.Type.f32
    assert str(read.output("logits").get_partial_shape()) == f"[?,{stateful_lm.VOCAB}]"
    assert {"ReadValue", "Assign"} <= {node.get_type_name() for node in read.get_ops()}
    check_edited(read)


def test_sizes_are_read_from_the_cache_itself() -> None:
    model = stateful_lm.make()
    gather_before_lm_head(model)

    sizes = read_architecture(model, {"model_type": "toy", "max_position_embeddings": 64})

    assert (sizes.num_layers, sizes.num_kv_heads, sizes.head_dim) == (1, 1, stateful_lm.HIDDEN)
    assert (sizes.vocab_size, sizes.max_model_len) == (stateful_lm.VOCAB, 64)


def test_cache_grows_over_calls_as_in_one() -> None:
    model = stateful_lm.make()
    gather_before_lm_head(model)
    session = IrSession(model)
    session.forward([1, 2], [])
    split = session.forward([3], [0])
    session.reset()

    whole = session.forward([1, 2, 3], [2])

    np.testing.assert_allclose(split, whole, rtol=1e-5)


def test_model_without_state_is_refused() -> None:
    with pytest.raises(ConversionError, match="no ReadValue/Assign"):
        gather_before_lm_head(stateful_lm.make(stateful=False))


def test_unknown_operation_after_the_head_is_refused_by_name() -> None:
    with pytest.raises(ConversionError, match="Softmax"):
        gather_before_lm_head(stateful_lm.make(after_head="norm"))


def test_second_edit_is_refused() -> None:
    model = stateful_lm.make()
    assert not is_edited(model)
    gather_before_lm_head(model)
    assert is_edited(model)
    with pytest.raises(ConversionError, match="logits_indices already"):
        gather_before_lm_head(model)


def test_edit_that_moves_a_number_is_caught() -> None:
    def broken(model: ov.Model) -> None:
        gather_before_lm_head(model)
        head = next(node for node in model.get_ops() if node.get_type_name() == "MatMul")
        weights = head.input_value(1).get_node()
        wrong = ov.opset13.constant(weights.data * np.float32(1.1))
        head.input(1).replace_source_output(wrong.output(0))

    with pytest.raises(ConversionError, match="a logit moved by"):
        edit_changes_nothing(stateful_lm.make(), broken)


def test_right_edit_passes_the_same_check() -> None:
    model = stateful_lm.make()
    edit_changes_nothing(model, gather_before_lm_head)
    assert is_edited(model)
