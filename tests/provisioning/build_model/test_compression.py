from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from appliance.model_dir import Weights
from provisioning.build_model.compare_modes import recipe_of
from provisioning.build_model.compress import RECIPES, compressed_weights


def ir_with(dtype: ov.Type, shape: list[int]) -> ov.Model:
    """A model whose only large constant has this type and shape."""
    node = ops.constant(ov.Tensor(dtype, ov.Shape(shape)))
    return ov.Model([ops.result(node)], [], "weights")


@pytest.mark.parametrize(
    ("dtype", "shape", "weights"),
    [
        (ov.Type.f32, [512, 256], None),
        (ov.Type.bf16, [512, 256], None),
        (ov.Type.i8, [512, 256], Weights("int8", True, -1)),
        (ov.Type.u8, [512, 256], Weights("int8", False, -1)),
        (ov.Type.i4, [512, 4, 64], Weights("int4", True, 64)),
        (ov.Type.u4, [512, 2, 128], Weights("int4", False, 128)),
    ],
)
def test_compression_is_read_off_the_weights(
    dtype: ov.Type, shape: list[int], weights: Weights | None
) -> None:
    assert compressed_weights(ir_with(dtype, shape)) == weights


def test_small_constants_do_not_make_a_model_compressed() -> None:
    large = ops.constant(np.zeros((512, 256), np.float32))
    small = ops.constant(np.zeros((16, 16), np.uint8))
    model = ov.Model([ops.result(large), ops.result(small)], [], "weights")

    assert compressed_weights(model) is None


def test_modes_are_written_with_their_group_size_and_ratio() -> None:
    assert recipe_of("INT8_SYM") == RECIPES["int8"]
    assert recipe_of("INT4_ASYM:64:0.8") == RECIPES["int4"]
    assert recipe_of("INT4_SYM:128").ratio == 1.0
