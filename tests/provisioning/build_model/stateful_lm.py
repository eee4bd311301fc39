"""A stateful language model of a few hundred weights, with the inputs of a real exported one.

Not a good model: its hidden state is the token's embedding plus the mean of all embeddings so far
(that is its KV cache), plus a little of position and mask. Enough for every number to depend on
every input.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

VOCAB, HIDDEN = 11, 8


def make(*, after_head: str = "nothing", stateful: bool = True) -> ov.Model:
    """The model; `after_head`: nothing, scale, bias, cap, half (precision), flat or norm."""
    generator = np.random.default_rng(7)
    inputs = _inputs()
    ids, mask, positions, beam = inputs
    table = generator.standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    embedded = ops.gather(ops.constant(table), ids, 0)
    sinks = []
    hidden = embedded
    for name in ("key", "value") if stateful else ():
        cache, assign = _cache(name, embedded, beam)
        sinks.append(assign)
        hidden = ops.add(hidden, ops.reduce_mean(cache, [2]))
    seen = ops.reduce_mean(ops.convert(mask, np.float32), [1], keep_dims=True)
    place = ops.multiply(ops.convert(positions, np.float32), np.float32(0.1))
    hidden = ops.add(hidden, ops.unsqueeze(ops.multiply(place, seen), 2))
    weights = generator.standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    logits = _after_head(_head(hidden, weights, flat=after_head == "flat"), after_head)
    result = ops.result(logits)
    result.output(0).set_names({"logits"})
    return ov.Model([result], sinks, inputs, "stateful_lm")


def run(model: ov.Model, ids: np.ndarray, wanted: list[int] | None = None) -> np.ndarray:
    """Logits for `ids` (rows, tokens) from an empty cache, float32 as the model shapes them."""
    rows, tokens = ids.shape
    feed = {
        "input_ids": ids,
        "attention_mask": np.ones((rows, tokens), np.int64),
        "position_ids": np.tile(np.arange(tokens, dtype=np.int64), (rows, 1)),
        "beam_idx": np.arange(rows, dtype=np.int32),
    }
    if wanted is not None:
        feed["logits_indices"] = np.asarray(wanted, np.int64)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(model, "CPU", exact).create_infer_request()
    request.infer(feed)
    return np.array(request.get_tensor("logits").data, dtype=np.float32)


def _inputs() -> list[ov.Node]:
    kinds = {
        "input_ids": ([-1, -1], np.int64),
        "attention_mask": ([-1, -1], np.int64),
        "position_ids": ([-1, -1], np.int64),
        "beam_idx": ([-1], np.int32),
    }
    inputs = []
    for name, (shape, dtype) in kinds.items():
        node = ops.parameter(shape, dtype, name=name)
        node.output(0).set_names({name})
        inputs.append(node)
    return inputs


def _cache(name: str, embedded: ov.Node, beam: ov.Node) -> tuple[ov.Node, ov.Node]:
    info = VariableInfo()
    info.data_shape = ov.PartialShape([-1, 1, -1, HIDDEN])
    info.data_type = ov.Type.f32
    info.variable_id = name
    variable = Variable(info)
    rows = ops.gather(ops.shape_of(embedded), [0], 0)
    shape = ops.concat([rows, ops.constant(np.array([1, 0, HIDDEN], np.int64))], 0)
    empty = ops.broadcast(ops.constant(np.float32(0)), shape)
    past = ops.gather(ops.read_value(empty, variable), beam, 0)
    cache = ops.concat([past, ops.unsqueeze(embedded, 1)], 2)
    return cache, ops.assign(cache, variable)


def _head(hidden: ov.Node, weights: np.ndarray, *, flat: bool) -> ov.Node:
    if not flat:
        return ops.matmul(hidden, ops.constant(weights), False, True)
    rows = ops.reshape(hidden, [-1, HIDDEN], special_zero=False)
    logits = ops.matmul(rows, ops.constant(weights), False, True)
    leading = ops.gather(ops.shape_of(hidden), [0, 1], 0)
    shape = ops.concat([leading, ops.constant(np.array([VOCAB], np.int64))], 0)
    return ops.reshape(logits, shape, special_zero=False)


def _after_head(logits: ov.Node, what: str) -> ov.Node:
    if what == "scale":
        return ops.multiply(logits, np.float32(0.25))
    if what == "bias":
        bias = np.linspace(-1, 1, VOCAB, dtype=np.float32).reshape(1, 1, VOCAB)
        return ops.add(logits, ops.constant(bias))
    if what == "cap":
        return ops.multiply(ops.tanh(ops.divide(logits, np.float32(3))), np.float32(3))
    if what == "half":
        return ops.convert(logits, np.float16)
    if what == "norm":
        return ops.softmax(logits, 2)
    return logits
