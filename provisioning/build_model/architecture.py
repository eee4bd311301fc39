"""The sizes of a model: cache geometry from the IR itself, context length from its config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.model_dir import Architecture
from provisioning.build_model.errors import ConversionError, UnsupportedModelError

if TYPE_CHECKING:
    import openvino as ov


def read_architecture(model: ov.Model, config: dict[str, Any]) -> Architecture:
    """Sizes of the edited stateful IR `model`, whose checkout has `config` as its config.json.

    Layers, heads and head size are read from the state variables, (rows, kv heads, tokens, head
    size): what the run world will really see.
    """
    states = [node for node in model.get_ops() if node.get_type_name() == "ReadValue"]
    shapes = {str(node.output(0).get_partial_shape()) for node in states}
    if len(shapes) != 1 or len(states) % 2:
        raise ConversionError(
            f"the IR has {len(states)} state variables of shapes {sorted(shapes)}; expected one "
            "key and one value per layer, all of one shape"
        )
    shape = states[0].output(0).get_partial_shape()
    if shape.rank.get_length() != 4 or not (shape[1].is_static and shape[3].is_static):
        raise ConversionError(f"the KV cache is {shape}, expected [rows, kv heads, tokens, size]")
    return Architecture(
        model_type=str(config.get("model_type", "unknown")),
        vocab_size=model.output("logits").get_partial_shape()[-1].get_length(),
        max_model_len=max_model_len(config),
        num_layers=len(states) // 2,
        num_kv_heads=shape[1].get_length(),
        head_dim=shape[3].get_length(),
    )


def max_model_len(config: dict[str, Any]) -> int:
    """The longest context, in tokens, for which the exported graph is right.

    `max_position_embeddings`, with two exceptions. YaRN stretches the original length by a factor
    that the export bakes in. Dynamic and long rope change their constants with the length, which a
    traced graph cannot, so only the original length counts. An active sliding window bounds the
    length too: the service keeps every token in view.
    """
    try:
        length = int(config["max_position_embeddings"])
    except (KeyError, TypeError, ValueError):
        raise UnsupportedModelError(
            "config.json has no usable max_position_embeddings; the context length is unknown"
        ) from None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    original = int(rope.get("original_max_position_embeddings") or length)
    if kind == "yarn":
        length = int(original * float(rope.get("factor", 1.0)))
    elif kind in ("dynamic", "longrope"):
        length = original
    window = config.get("sliding_window")
    if isinstance(window, int) and config.get("use_sliding_window", True):
        length = min(length, window)
    return length
