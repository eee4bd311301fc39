"""openvino.genai over the same weights: its continuous batching and its stateful LLMPipeline."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.model_dir import MODEL_XML
from tests.benchmarks.harness.fleet import Launch, Side, UnavailableError
from tests.benchmarks.peers.inputs import Inputs, published
from tests.benchmarks.peers.venv import PeerVenv

CONTINUOUS = "genai"
STATEFUL = "genai LLMPipeline"


def sides(inputs: Inputs) -> list[Side]:
    """Both pipelines."""

    def prepare(pipeline: str) -> Launch:
        python = PeerVenv(inputs.root, "genai").ensure()
        script = inputs.workers / "genai_worker.py"
        eos = str(inputs.manifest.eos_token_ids[0])
        options = ("--model", ir_without_edit(inputs), "--pipeline", pipeline, "--eos", eos)
        return Launch((python, script, *options))

    return [
        Side(CONTINUOUS, "in process", lambda: prepare("continuous")),
        Side(STATEFUL, "in process", lambda: prepare("stateful")),
    ]


def ir_without_edit(inputs: Inputs) -> Path:
    """A directory with the IR as it was before our edit, made once per model.

    It has no tokenizer: the worker speaks in token ids. Raises `UnavailableError`.
    """
    place = inputs.converted("ir")
    if place.is_dir():
        return place
    import openvino as ov

    from tests.benchmarks.peers.undo_ir_edit import undo_ir_edit

    model = ov.Core().read_model(inputs.model_dir / MODEL_XML)
    try:
        undo_ir_edit(model)
    except ValueError as error:
        raise UnavailableError(f"the edit of the IR cannot be undone: {error}") from None
    with published(place) as draft:
        draft.mkdir()
        ov.save_model(model, draft / MODEL_XML, compress_to_fp16=False)
        eos = {"eos_token_id": list(inputs.manifest.eos_token_ids)}
        for name in ("config.json", "generation_config.json"):
            (draft / name).write_text(json.dumps(eos), encoding="utf-8")
    return place
