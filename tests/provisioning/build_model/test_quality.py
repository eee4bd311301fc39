from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from provisioning.build_model.errors import QualityGateError
from provisioning.build_model.prompts import (
    PromptIds,
    encode_prompt,
    prompts_sha256,
    read_prompts,
)
from provisioning.build_model.quality import THRESHOLDS, check_quality, compare_positions
from provisioning.build_model.reference import answer_positions, log_softmax
from provisioning.build_model.tokenizer_files import TextSide
from tests import tiny_model

MEASURED = {"num_prompts": 40, "num_positions": 1000}


def test_prompts_cover_languages_code_and_chat() -> None:
    kinds = Counter(prompt.kind for prompt in read_prompts())

    assert sum(kinds.values()) >= 32
    assert set(kinds) == {"english", "chinese", "code", "chat"}
    assert min(kinds.values()) >= 8
    assert len({prompt.prompt for prompt in read_prompts()}) == sum(kinds.values())
    assert len(prompts_sha256()) == 64


def test_positions_compared_are_those_that_predict_the_answer() -> None:
    assert list(answer_positions(PromptIds((10, 11, 12, 13, 14), num_answer=2))) == [2, 3]


def test_chat_prompts_go_through_the_template_others_do_not() -> None:
    tokenizer = tiny_model.byte_tokenizer()
    text = TextSide(tiny_model.TEMPLATE, (tiny_model.IM_END,), None, {}, None)
    by_kind = {prompt.kind: prompt for prompt in read_prompts()}

    chat = encode_prompt(by_kind["chat"], tokenizer, text)
    plain = encode_prompt(by_kind["english"], tokenizer, text)

    assert chat.ids[0] == tiny_model.IM_START
    assert tiny_model.IM_START not in plain.ids
    assert 1 <= chat.num_answer <= 32
    answer = by_kind["chat"].answer.encode()
    assert bytes(chat.ids[-chat.num_answer :]) == answer[: chat.num_answer]


def test_equal_distributions_agree_and_do_not_diverge() -> None:
    logs = log_softmax(np.array([[1.0, 2.0, 3.0], [0.0, 5.0, 0.0]], np.float32))

    agreeing, divergence = compare_positions(logs, logs.copy())

    assert agreeing == 2
    assert divergence == 0.0


def test_divergence_is_that_of_the_original_from_the_compressed_in_nats() -> None:
    original = np.log(np.array([[0.75, 0.25]], np.float32))
    compressed = np.log(np.array([[0.25, 0.75]], np.float32))

    agreeing, divergence = compare_positions(original, compressed)

    assert agreeing == 0
    assert divergence == pytest.approx(0.75 * math.log(3) - 0.25 * math.log(3), rel=1e-6)


def test_log_softmax_sums_to_one_for_large_logits() -> None:
    logs = log_softmax(np.array([[1e4, 1e4 - 1, -1e4]], np.float32))
    assert np.exp(logs).sum() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_figures_at_the_thresholds_pass(precision: str) -> None:
    limits = THRESHOLDS[precision]
    measured = {
        **MEASURED,
        "top1_agreement": limits.min_top1_agreement,
        "mean_kl": limits.max_mean_kl,
    }

    quality = check_quality(measured, precision)

    assert quality.min_top1_agreement == limits.min_top1_agreement
    assert quality.num_positions == 1000


@pytest.mark.parametrize(("top1", "kl"), [(0.5, 0.0), (1.0, 1.0), (math.nan, 0.0), (1.0, math.nan)])
def test_figures_below_them_publish_nothing(top1: float, kl: float) -> None:
    with pytest.raises(QualityGateError, match="nothing was published") as caught:
        check_quality({**MEASURED, "top1_agreement": top1, "mean_kl": kl}, "int8")
    assert caught.value.exit_code == 15
