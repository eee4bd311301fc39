"""Makes the IR tell the keys and values it has just computed.

The public state API can be written fast and read only slowly: 0.5 us for every token, head, layer
and row, which is 100 ms for a batch of seven short conversations. What a pass appends to its state
is known inside the graph anyway, so it becomes one more output; see the README beside this file for
what it costs (nothing that can be measured).
"""

from __future__ import annotations

from pathlib import Path

import openvino as ov
from openvino import opset13 as ops

from appliance.backends.compile_options import CompileOptions
from appliance.backends.loader import compile_model
from appliance.errors import ModelDirError

NEW_KV = "new_kv"


def compile_stateful(model_dir: Path, options: CompileOptions) -> ov.CompiledModel:
    """Compile the IR in `model_dir` for the CPU, with the output `new_kv`.

    Raises `ModelDirError` when the IR is missing or keeps no KV cache in its state, `BackendError`
    when OpenVINO refuses it.
    """

    def edit(model: ov.Model) -> None:
        try:
            add_new_kv(model)
        except ValueError as error:
            raise ModelDirError(model_dir, str(error)) from error

    return compile_model(model_dir, options, edit)


def add_new_kv(model: ov.Model) -> None:
    """Edit `model` in place: output `new_kv`, float32 `(variables * rows, heads, tokens, dim)`.

    Variables come in the order of their names, each with what the pass appends to it. Raises
    `ValueError` when a variable is not grown by concatenation.
    """
    assigns = [node for node in model.get_ops() if node.get_type_name() == "Assign"]
    appended = []
    for assign in sorted(assigns, key=lambda node: node.get_variable_id()):
        concat = assign.input_value(0).get_node()
        if concat.get_type_name() != "Concat" or concat.get_input_size() != 2:
            raise ValueError(
                f"the IR's state {assign.get_variable_id()} is not keys or values that grow by "
                "concatenation; build it again with provisioning/build-model.sh"
            )
        appended.append(concat.input_value(1))
    if not appended:
        raise ValueError(
            "the IR keeps no KV cache in its state; build it again with provisioning/build-model.sh"
        )
    together = ops.concat(appended, 0)
    together.output(0).set_names({NEW_KV})
    model.add_results([ops.result(together)])
    model.validate_nodes_and_infer_types()
