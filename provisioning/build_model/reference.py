"""What the original weights say: log-probabilities in float32 at the quality gate's positions.

They are written to disk, one file per prompt, and the original is gone from memory before the
compressed model is loaded.

    ids.json       [[ids of prompt and answer, number of answer ids], ...]
    NNN.npy        float32 (answer ids, vocabulary), natural logarithms
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.model_dir import MODEL_XML, TOKENIZER
from provisioning.build_model.ir_edit import gather_before_lm_head, is_edited
from provisioning.build_model.ir_session import IrSession
from provisioning.build_model.prompts import PromptIds, encode_prompt, read_prompts
from provisioning.build_model.sources.base import Checkout, Stage
from provisioning.build_model.tokenizer_files import TextSide

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

IDS = "ids.json"


def write_reference(
    checkout: Checkout, text: TextSide, directory: Path, stage: Stage
) -> dict[str, Any]:
    """Run the weights of `checkout` over all prompts and write what they say to `directory`.

    Float weights of a checkout run in torch; those of an OpenVINO IR, which has no others, in
    OpenVINO with all of its shortcuts off.
    """
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkout.path / TOKENIZER))
    encoded = [encode_prompt(prompt, tokenizer, text) for prompt in read_prompts()]
    stage.total(len(encoded))
    run = _original_ir(checkout.path) if checkout.is_openvino else _original_torch(checkout.path)
    for number, prompt in enumerate(encoded):
        np.save(reference_file(directory, number), log_softmax(run(prompt)))
        stage.advance(1)
    ids = [[prompt.ids, prompt.num_answer] for prompt in encoded]
    (directory / IDS).write_text(json.dumps(ids), encoding="utf-8")
    return {}


def reference_file(directory: Path, number: int) -> Path:
    """Where the log-probabilities for prompt `number` are."""
    return directory / f"{number:03}.npy"


def read_ids(directory: Path) -> list[PromptIds]:
    """The prompts as `write_reference` encoded them."""
    entries = json.loads((directory / IDS).read_text(encoding="utf-8"))
    return [PromptIds(tuple(ids), num_answer) for ids, num_answer in entries]


def answer_positions(prompt: PromptIds) -> range:
    """Positions whose logits predict the answer's tokens: one before each of them."""
    end = len(prompt.ids) - 1
    return range(end - prompt.num_answer, end)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities over the last axis; sums are taken in float64."""
    import numpy as np

    shifted: NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    shifted -= np.log(total).astype(np.float32)
    return shifted


def _original_torch(checkout: Path) -> Callable[[PromptIds], NDArray[np.float32]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        checkout, dtype="auto", local_files_only=True, trust_remote_code=False
    ).eval()
    _widen(model)

    def run(prompt: PromptIds) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt.ids]), use_cache=False).logits[0]
            answer: NDArray[np.float32] = logits[list(answer_positions(prompt))].numpy()
            return answer

    return run


def _widen(model: torch.nn.Module) -> None:
    """Make all weights float32 without ever holding three copies of them.

    Freshly loaded weights are views of the mapped file, which stays in memory until the last view
    is gone. Widening them one by one would keep file and float32 side by side: 4.2 GB for 0.6
    billion weights. Copied first, the file goes before the float32 comes: 3 GB.
    """
    import torch

    narrow = [weight for weight in model.parameters() if weight.dtype != torch.float32]
    for weight in narrow:
        weight.data = weight.data.clone()
    for weight in narrow:
        weight.data = weight.data.float()


def _original_ir(checkout: Path) -> Callable[[PromptIds], NDArray[np.float32]]:
    import openvino as ov

    model = ov.Core().read_model(checkout / MODEL_XML)
    if not is_edited(model):
        gather_before_lm_head(model)
    session = IrSession(model)

    def run(prompt: PromptIds) -> NDArray[np.float32]:
        session.reset()
        return session.forward(prompt.ids, answer_positions(prompt))

    return run
