"""The quality gate: how far the compressed IR departs from the original weights.

Both see the same text; at each position that predicts a token of an answer their distributions of
the next token are compared:

    top-1 agreement = share of positions where both have the same most likely token
    KL              = sum over the vocabulary of p * (log p - log q), in nats
                      p: original in float32, q: compressed; the mean over all positions counts
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.model_dir import Quality
from provisioning.build_model.errors import QualityGateError
from provisioning.build_model.golden import find_golden
from provisioning.build_model.ir_session import IrSession
from provisioning.build_model.reference import (
    answer_positions,
    log_softmax,
    read_ids,
    reference_file,
)
from provisioning.build_model.sources.base import Stage
from provisioning.build_model.tokenizer_files import TextSide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a published model must reach; chosen from measurements, see the README."""

    min_top1_agreement: float
    max_mean_kl: float


THRESHOLDS = {"int8": Thresholds(0.93, 0.02), "int4": Thresholds(0.85, 0.12)}


def verify_model(
    model: Path, reference: Path | None, text: TextSide, stage: Stage
) -> dict[str, Any]:
    """Compare the IR `model` (.xml) with the stored `reference` and answer the golden prompt.

    Returns `golden` and, with a reference, `num_prompts`, `num_positions`, `top1_agreement` and
    `mean_kl`, as JSON. Judging them is `check_quality`'s.
    """
    session = IrSession(model)
    measured = {} if reference is None else compare(session, reference, stage)
    golden = find_golden(session, model.parent, text)
    return {"golden": dataclasses.asdict(golden), "measured": measured}


def check_quality(measured: dict[str, Any], precision: str) -> Quality:
    """The manifest's figures. Raises `QualityGateError` when they are below the thresholds."""
    limits = THRESHOLDS[precision]
    quality = Quality(**measured, **dataclasses.asdict(limits))
    # Written so that a figure that is not a number fails too.
    good = quality.top1_agreement >= limits.min_top1_agreement
    if not (good and quality.mean_kl <= limits.max_mean_kl):
        raise QualityGateError(
            f"the {precision} weights answer too differently from the original: top-1 agreement "
            f"{quality.top1_agreement:.2%} (at least {limits.min_top1_agreement:.2%}), mean KL "
            f"{quality.mean_kl:.4f} nats (at most {limits.max_mean_kl:g}) over "
            f"{quality.num_positions} positions; nothing was published"
        )
    return quality


def compare_positions(
    original: NDArray[np.float32], compressed: NDArray[np.float32]
) -> tuple[int, float]:
    """Positions with the same top token, and summed KL; both are log-probabilities (N, V)."""
    import numpy as np

    agreeing = int((original.argmax(axis=-1) == compressed.argmax(axis=-1)).sum())
    divergence = np.exp(original) * (original - compressed)
    return agreeing, float(divergence.sum(dtype=np.float64))


def compare(session: IrSession, reference: Path, stage: Stage) -> dict[str, Any]:
    """The gate's figures for `session` against the stored `reference`; `Quality` without limits."""
    import numpy as np

    prompts = read_ids(reference)
    stage.total(len(prompts))
    agreeing, divergence, num_positions = 0, 0.0, 0
    for number, prompt in enumerate(prompts):
        session.reset()
        logits = session.forward(prompt.ids, answer_positions(prompt))
        original = np.load(reference_file(reference, number))
        same, kl = compare_positions(original, log_softmax(logits))
        agreeing, divergence = agreeing + same, divergence + kl
        num_positions += prompt.num_answer
        stage.advance(1)
    return {
        "num_prompts": len(prompts),
        "num_positions": num_positions,
        "top1_agreement": agreeing / num_positions,
        "mean_kl": divergence / num_positions,
    }
