"""How much of a model a token reads, from IRs that OpenVINO wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from appliance.doctor.weight_bytes import weight_bytes_per_token
from appliance.errors import ModelDirError
from appliance.model_dir import MODEL_BIN, MODEL_XML

_VOCAB, _WIDTH = 50, 4


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_only_looked_up_is_not_read(tmp_path: Path, tied: bool) -> None:
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).set_names({"input_ids"})
    embedding = _compressed(np.ones((_VOCAB, _WIDTH), np.int8))
    hidden = ops.gather(embedding, ids, np.int64(0))
    head = embedding if tied else _compressed(np.full((_VOCAB, _WIDTH), 2, np.int8))
    model = ov.Model([ops.result(ops.matmul(hidden, head, False, True))], [ids], "lm")
    ov.save_model(model, tmp_path / MODEL_XML, compress_to_fp16=False)
    total = (tmp_path / MODEL_BIN).stat().st_size
    only_looked_up = 0 if tied else _VOCAB * _WIDTH + _VOCAB * 2
    assert weight_bytes_per_token(tmp_path) == total - only_looked_up


def _compressed(weights: np.ndarray) -> ov.Node:
    """As weight compression writes it: INT8, to float16, times a scale per row, to float32."""
    scales = np.linspace(1, 2, len(weights), dtype=np.float16)[:, None] + weights[0, 0]
    scaled = ops.multiply(ops.convert(ops.constant(weights), np.float16), ops.constant(scales))
    return ops.convert(scaled, np.float32)


@pytest.mark.parametrize(
    ("ir", "told"),
    [
        ("no xml", "ParseError"),
        ("<net><layers></layers></net>", "reach no Gather"),
        ('<net><layers><layer id="0"></layer></layers></net>', "KeyError"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, ir: str, told: str) -> None:
    (tmp_path / MODEL_XML).write_text(ir)
    (tmp_path / MODEL_BIN).write_bytes(b"weights")
    with pytest.raises(ModelDirError, match=told):
        weight_bytes_per_token(tmp_path)


@pytest.mark.model
def test_the_embedded_model_reads_all_its_weights_for_a_token(model_dir: Path) -> None:
    assert weight_bytes_per_token(model_dir) == (model_dir / MODEL_BIN).stat().st_size
