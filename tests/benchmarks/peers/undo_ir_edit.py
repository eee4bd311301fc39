"""The exported IR back from ours, for a peer that wants logits of every position.

    ours     hidden (B, T, H) -> (B*T, H) -> gather(logits_indices) -> LM head -> logits (N, V)
    undone   hidden (B, T, H) ------------------------------------> LM head -> logits (B, T, V)

The weights are the same bytes, so a comparison with the peer is one of engines.
"""

from __future__ import annotations

import openvino as ov

_LOGITS_INDICES = "logits_indices"
_SHAPE_ONLY = frozenset({"Reshape", "Squeeze"})


def undo_ir_edit(model: ov.Model) -> None:
    """Edit `model` in place: no input `logits_indices`, logits of rank 3.

    Raises `ValueError` when it has no such input or is built in another way.
    """
    indices = _parameter(model)
    gathers = [target.get_node() for target in indices.output(0).get_target_inputs()]
    if [gather.get_type_name() for gather in gathers] != ["Gather"]:
        kinds = [gather.get_type_name() for gather in gathers]
        raise ValueError(f"{_LOGITS_INDICES} is used by {kinds}, expected one Gather")
    hidden = gathers[0].input_value(0)
    if hidden.get_node().get_type_name() == "Reshape":
        hidden = hidden.get_node().input_value(0)
    if hidden.get_partial_shape().rank.get_length() != 3:
        raise ValueError(f"the hidden states are {hidden.get_partial_shape()}, expected rank 3")
    head = gathers[0].output(0)
    head.replace(hidden)
    _drop_flattening(model)
    model.remove_parameter(indices)
    model.validate_nodes_and_infer_types()
    shape = model.outputs[0].get_partial_shape()
    if shape.rank.get_length() != 3:
        raise ValueError(f"the logits are {shape} afterwards, expected rank 3")


def _parameter(model: ov.Model) -> ov.Node:
    for parameter in model.get_parameters():
        if _LOGITS_INDICES in parameter.output(0).get_names():
            return parameter
    raise ValueError(f"the IR has no input {_LOGITS_INDICES}")


def _drop_flattening(model: ov.Model) -> None:
    """Take out what made a matrix of the LM head's result, between it and the output."""
    end = model.get_results()[0].input(0)
    names = end.get_source_output().get_names()
    node = end.get_source_output().get_node()
    while node.get_type_name() != "MatMul":
        computed = _computed_input(node)
        if node.get_type_name() in _SHAPE_ONLY:
            node.output(0).replace(computed)
        node = computed.get_node()
    end.get_source_output().set_names(names)


def _computed_input(node: ov.Node) -> ov.Output:
    """The first input of `node` that is no constant."""
    for port in node.inputs():
        if port.get_source_output().get_node().get_type_name() != "Constant":
            return port.get_source_output()
    raise ValueError(f"no LM head found: {node.get_friendly_name()} depends on constants alone")
