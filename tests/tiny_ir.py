"""A stateful IR small enough to check by hand: one layer, one head, float32, random weights.

It has the inputs and the state of a real one: keys and values appended to two ReadValue/Assign
variables `(rows, 1, tokens, DIM)`, a mask over all of them, positions, wanted logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset15 as ops

VOCAB_SIZE = 23
DIM = 8
MAX_POSITIONS = 4096

Floats = NDArray[np.float32]


def _random(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


@dataclass(frozen=True)
class Weights:
    """Of one layer; the head is the embedding, turned."""

    embedding: Floats = field(default_factory=lambda: _random(1, VOCAB_SIZE, DIM))
    positions: Floats = field(default_factory=lambda: _random(2, MAX_POSITIONS, DIM))
    query: Floats = field(default_factory=lambda: _random(3, DIM, DIM))
    key: Floats = field(default_factory=lambda: _random(4, DIM, DIM))
    value: Floats = field(default_factory=lambda: _random(5, DIM, DIM))


def reference_logits(weights: Weights, token_ids: Sequence[int]) -> Floats:
    """Logits `(len(token_ids), VOCAB_SIZE)` of a whole text at once: no state, mask or holes."""
    length = len(token_ids)
    hidden = weights.embedding[list(token_ids)] + weights.positions[:length]
    scores = (hidden @ weights.query) @ (hidden @ weights.key).T / np.sqrt(DIM)
    scores[np.triu_indices(length, 1)] = -np.inf
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    attended: Floats = hidden + shares @ (hidden @ weights.value)
    return attended @ weights.embedding.T


def model(weights: Weights) -> ov.Model:
    """The same as `reference_logits`, as an OpenVINO model that remembers what it has seen."""
    inputs = {
        "input_ids": ops.parameter([-1, -1], np.int64),
        "attention_mask": ops.parameter([-1, -1], np.int64),
        "position_ids": ops.parameter([-1, -1], np.int64),
        "beam_idx": ops.parameter([-1], np.int32),
        "logits_indices": ops.parameter([-1], np.int64),
    }
    for name, parameter in inputs.items():
        parameter.set_friendly_name(name)
        parameter.output(0).set_names({name})
    hidden = ops.add(
        ops.gather(weights.embedding, inputs["input_ids"], np.int64(0)),
        ops.gather(weights.positions, inputs["position_ids"], np.int64(0)),
    )
    sinks = []

    def remembered(name: str, projection: Floats) -> ov.Node:
        new = ops.unsqueeze(ops.matmul(hidden, projection, False, False), np.int64(1))
        nothing = np.zeros((1, 1, 0, DIM), np.float32)
        past = ops.read_value(nothing, name, np.float32, ov.PartialShape([-1, 1, -1, DIM]))
        past = ops.gather(past, inputs["beam_idx"], np.int64(0))
        both = ops.concat([past, new], 2)
        sinks.append(ops.assign(both, name))
        return both

    keys, values = remembered("keys", weights.key), remembered("values", weights.value)
    query = ops.unsqueeze(ops.matmul(hidden, weights.query, False, False), np.int64(1))
    scores = ops.divide(ops.matmul(query, keys, False, True), np.float32(np.sqrt(DIM)))
    seen = ops.select(_allowed(inputs), scores, np.float32(-1e9))
    attended = ops.squeeze(ops.matmul(ops.softmax(seen, 3), values, False, False), np.int64(1))
    every = ops.reshape(ops.add(hidden, attended), np.array([-1, DIM]), False)
    wanted = ops.gather(every, inputs["logits_indices"], np.int64(0))
    logits = ops.matmul(wanted, weights.embedding, False, True)
    return ov.Model([ops.result(logits)], sinks, list(inputs.values()), "tiny")


def _allowed(inputs: dict[str, ov.Node]) -> ov.Node:
    """Boolean `(rows, 1, new, all)`: not behind the token itself, and not where the mask is 0."""

    def length(name: str) -> ov.Node:
        return ops.gather(ops.shape_of(inputs[name]), np.int64(1), np.int64(0))

    every, new = length("attention_mask"), length("input_ids")
    columns = ops.range(np.int64(0), every, np.int64(1), output_type="i64")
    rows = ops.range(ops.subtract(every, new), every, np.int64(1), output_type="i64")
    causal = ops.less_equal(columns, ops.unsqueeze(rows, np.int64(1)))
    counts = ops.not_equal(inputs["attention_mask"], np.int64(0))
    of_row = ops.unsqueeze(counts, np.array([1, 2]))
    return ops.logical_and(ops.unsqueeze(causal, np.array([0, 1])), of_row)
