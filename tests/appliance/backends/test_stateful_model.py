"""The one edit of the IR that the stateful variant needs: it tells what a pass has appended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from appliance.backends.compile_options import CompileOptions
from appliance.backends.stateful.model import add_new_kv, compile_stateful
from appliance.errors import ModelDirError
from appliance.model_dir import MODEL_XML
from tests import tiny_ir

OPTIONS = CompileOptions(0, 32, "f32", "f32", None)


def test_what_a_pass_appends_is_told_in_the_order_of_the_variables_names(tmp_path: Path) -> None:
    ov.save_model(tiny_ir.model(tiny_ir.Weights()), tmp_path / MODEL_XML, compress_to_fp16=False)
    request = compile_stateful(tmp_path, OPTIONS).create_infer_request()
    for start, token_ids in ((0, [3, 1, 4]), (3, [1, 5])):
        end = start + len(token_ids)
        request.infer(
            {
                "input_ids": np.array([token_ids]),
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(start, end)[None],
                "beam_idx": np.zeros(1, np.int32),
                "logits_indices": np.array([len(token_ids) - 1]),
            }
        )
        new_kv = request.get_output_tensor(1).data
        assert new_kv.shape == (2, 1, len(token_ids), tiny_ir.DIM)
        states = sorted(request.query_state(), key=lambda state: state.name)
        assert [state.name for state in states] == ["keys", "values"]
        appended = np.concatenate([state.state.data[:, :, start:] for state in states])
        assert np.allclose(new_kv, appended)
        assert not np.allclose(new_kv[0], new_kv[1])


def test_a_model_without_state_is_refused() -> None:
    parameter = ops.parameter([1], np.float32)
    model = ov.Model([ops.result(parameter)], [parameter])
    with pytest.raises(ValueError, match="keeps no KV cache in its state"):
        add_new_kv(model)


def test_a_state_that_does_not_grow_is_refused(tmp_path: Path) -> None:
    past = ops.read_value(
        np.zeros((1, 1), np.float32), "counter", np.float32, ov.PartialShape([1, 1])
    )
    more = ops.add(past, np.float32(1))
    model = ov.Model([ops.result(more)], [ops.assign(more, "counter")], [], "counting")
    ov.save_model(model, tmp_path / MODEL_XML)
    with pytest.raises(ModelDirError, match="state counter is not keys or values"):
        compile_stateful(tmp_path, OPTIONS)
