"""Logits only where they are asked for: the one change made to the exported graph.

An exported causal LM multiplies every position's hidden state with the LM head, a matrix of
vocabulary x hidden size. For a prompt that is most of the arithmetic and most of the memory, and
all but one row of the result is thrown away. The edit puts a gather in front of the LM head:

    before   hidden (B, T, H) ------------------------------------> LM head -> logits (B, T, V)
    after    hidden (B, T, H) -> (B*T, H) -> gather(logits_indices) -> LM head -> logits (N, V)

`logits_indices` is a new input, int64 of shape (N,), flat indices into rows * tokens. It may be
empty: a chunk of a prompt that needs no logits then skips the LM head.

The weights' side of the LM head is not touched, so it may be compressed or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from provisioning.build_model.errors import ConversionError

if TYPE_CHECKING:
    import openvino as ov

LOGITS = "logits"
LOGITS_INDICES = "logits_indices"
STATEFUL_INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")

# What an exporter may put between the LM head and the result: scaling, a bias, soft-capping, a
# change of type or of shape. Anything else means that the head found is not the head.
_AFTER_HEAD = frozenset({"Add", "Convert", "Divide", "Multiply", "Reshape", "Subtract", "Tanh"})


def gather_before_lm_head(model: ov.Model) -> None:
    """Edit `model` in place so that output `logits` is float32 (N, vocabulary).

    `model` is a stateful causal LM with an output `logits` of (rows, tokens, vocabulary). Raises
    `ConversionError` when it is none, or when no LM head can be found in it.
    """
    import openvino as ov
    from openvino import opset13 as ops

    check_stateful(model)
    if any(LOGITS_INDICES in port.get_names() for port in model.inputs):
        raise ConversionError(f"the IR has an input {LOGITS_INDICES} already")
    result = _logits_result(model)
    head, between = _find_head(result)
    hidden = head.input_value(0)
    width = hidden.get_partial_shape()[-1]
    if not width.is_static:
        raise ConversionError("the LM head's hidden size is not static")
    indices = ops.parameter(ov.PartialShape([-1]), dtype=ov.Type.i64, name=LOGITS_INDICES)
    indices.output(0).set_names({LOGITS_INDICES})
    rows = ops.reshape(hidden, [-1, width.get_length()], special_zero=False)
    wanted = ops.gather(rows, indices, 0)
    wanted.set_friendly_name("wanted_hidden_states")
    head.input(0).replace_source_output(wanted.output(0))
    for node in between:
        if node.get_type_name() == "Reshape":
            node.output(0).replace(node.input_value(0))
    model.add_parameters([indices])
    model.validate_nodes_and_infer_types()
    _make_float32_matrix(model, result)
    check_edited(model)


def check_stateful(model: ov.Model) -> None:
    """Raise `ConversionError` unless the KV cache lives in state variables of the IR itself."""
    kinds = {node.get_type_name() for node in model.get_ops()}
    if not {"ReadValue", "Assign"} <= kinds:
        raise ConversionError(
            "the IR keeps no KV cache in its state (no ReadValue/Assign); export it with "
            "--task text-generation-with-past, stateful"
        )
    names = {name for port in model.inputs for name in port.get_names()}
    if missing := [name for name in STATEFUL_INPUTS if name not in names]:
        raise ConversionError(f"the IR has no input {missing[0]}; its inputs are {sorted(names)}")


def is_edited(model: ov.Model) -> bool:
    """Whether `model` has the input `logits_indices`."""
    return any(LOGITS_INDICES in port.get_names() for port in model.inputs)


def check_edited(model: ov.Model) -> None:
    """Raise `ConversionError` unless `model` is stateful and gives (N, vocabulary) in float32."""
    check_stateful(model)
    if not is_edited(model):
        raise ConversionError(f"the IR has no input {LOGITS_INDICES}")
    output = _logits_result(model).output(0)
    shape, kind = output.get_partial_shape(), output.get_element_type().get_type_name()
    if shape.rank.get_length() != 2 or not shape[1].is_static or kind != "f32":
        raise ConversionError(f"the edited IR's {LOGITS} are {kind} {shape}, expected f32 [?,V]")


def _logits_result(model: ov.Model) -> ov.Node:
    for result in model.get_results():
        if LOGITS in result.output(0).get_names() | result.input_value(0).get_names():
            return result
    names = [sorted(port.get_names()) for port in model.outputs]
    raise ConversionError(f"the IR has no output {LOGITS}; its outputs are {names}")


def _find_head(result: ov.Node) -> tuple[ov.Node, list[ov.Node]]:
    """The LM head's MatMul, and the nodes between it and `result`, the last first."""
    between: list[ov.Node] = []
    node = result.input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        if node.get_type_name() not in _AFTER_HEAD:
            raise ConversionError(
                f"no LM head found: {node.get_friendly_name()} ({node.get_type_name()}) stands "
                f"between the last MatMul and {LOGITS}"
            )
        between.append(node)
        node = _computed_input(node)
    if node.input_value(0).get_partial_shape().rank.get_length() not in (2, 3):
        raise ConversionError(f"the LM head {node.get_friendly_name()} takes no hidden states")
    return node, between


def _computed_input(node: ov.Node) -> ov.Node:
    """The one input of `node` that depends on what the model is asked, not on constants alone."""
    computed = [
        port.get_source_output().get_node()
        for port in node.inputs()
        if _depends_on_matmul(port.get_source_output().get_node())
    ]
    if len(computed) != 1:
        raise ConversionError(f"no LM head found before {node.get_friendly_name()}")
    return computed[0]


def _depends_on_matmul(node: ov.Node) -> bool:
    return any(found.get_type_name() == "MatMul" for found in _ancestors(node))


def _ancestors(node: ov.Node) -> Iterator[ov.Node]:
    """`node` and what it is computed from, no further back than through `_AFTER_HEAD` nodes."""
    yield node
    if node.get_type_name() in _AFTER_HEAD:
        for port in node.inputs():
            yield from _ancestors(port.get_source_output().get_node())


def _make_float32_matrix(model: ov.Model, result: ov.Node) -> None:
    """Whatever followed the LM head (a constant of rank 3, another type): end in float32 (N, V)."""
    import openvino as ov
    from openvino import opset13 as ops

    source = result.input_value(0)
    shape = source.get_partial_shape()
    names = source.get_names() | result.output(0).get_names() | {LOGITS}
    end = source
    if shape.rank.get_length() != 2:
        end = ops.reshape(end, [-1, shape[-1].get_length()], special_zero=False).output(0)
    if end.get_element_type().get_type_name() != "f32":
        end = ops.convert(end, ov.Type.f32).output(0)
    if end != source:
        source.set_names(set())
        end.set_names(names)
        result.input(0).replace_source_output(end)
        model.validate_nodes_and_infer_types()
