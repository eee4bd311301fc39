"""From a request's wishes to what the engine is asked: defaults, ceilings, refusals."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from appliance.backends.base import RunnerLimits
from appliance.chat.completer import Completer
from appliance.chat.options import MAX_STOP_STRINGS, CompletionOptions
from appliance.chat.output_format import FormatKind, OutputFormat
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from appliance.config import GenerationConfig
from appliance.engine.generation import Generation
from appliance.engine.sampling_params import SamplingParams
from appliance.engine.token_constraint import TokenConstraint
from appliance.errors import ContextLengthExceededError, QueueFullError, RequestError
from appliance.model_dir import TOKENIZER
from tests.tiny_model import (
    END_OF_TEXT,
    IM_END,
    IM_START,
    TEMPLATE,
    VOCAB_SIZE,
    byte_tokenizer,
)

MAX_MODEL_LEN = 100


@dataclasses.dataclass
class Asked:
    """What one submission asked for."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    timeout_s: float
    constraint: TokenConstraint | None


class RecordingEngine:
    """Takes what the completer submits and computes nothing."""

    def __init__(self) -> None:
        self.limits = RunnerLimits(1, MAX_MODEL_LEN, VOCAB_SIZE, False)
        self.asked: list[Asked] = []
        self.full = False

    def submit(
        self,
        prompt_ids: tuple[int, ...],
        params: SamplingParams,
        *,
        timeout_s: float,
        constraint: TokenConstraint | None,
    ) -> Generation:
        if self.full:
            raise QueueFullError("full", retry_after_s=1)
        self.asked.append(Asked(prompt_ids, params, timeout_s, constraint))
        return Generation(lambda reason: None, params.max_tokens)


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


def completer(
    engine: RecordingEngine,
    model_dir: Path,
    *,
    model_defaults: dict[str, float] | None = None,
    **generation: Any,
) -> Completer:
    return Completer(
        engine,  # type: ignore[arg-type]
        Tokenizer(model_dir),
        ChatTemplate(TEMPLATE, {}),
        eos_token_ids=(IM_END, END_OF_TEXT),
        generation=GenerationConfig(**generation),
        model_defaults=model_defaults or {},
        timeout_s=33,
    )


def asked_by(
    engine: RecordingEngine, completer: Completer, prompt: str | list[int] = "hi", **wishes: Any
) -> SamplingParams:
    completer.complete(prompt, CompletionOptions(**wishes))
    return engine.asked[-1].params


def test_a_conversation_is_rendered_and_tokenised(
    engine: RecordingEngine, tiny_model_dir: Path
) -> None:
    messages = [{"role": "user", "content": "你"}]
    (completion,) = completer(engine, tiny_model_dir).chat(messages, CompletionOptions())
    expected = (
        *(IM_START, *b"user\n", *"你".encode(), IM_END, *b"\n"),
        *(IM_START, *b"assistant\n"),
    )
    assert engine.asked[0].prompt_ids == expected
    assert engine.asked[0].timeout_s == 33
    assert completion.num_prompt_tokens == len(expected)


def test_text_and_ids_go_on_as_they_are(engine: RecordingEngine, tiny_model_dir: Path) -> None:
    ours = completer(engine, tiny_model_dir)
    ours.complete("Once", CompletionOptions())
    ours.complete([1, 2, 299], CompletionOptions())
    assert [asked.prompt_ids for asked in engine.asked] == [tuple(b"Once"), (1, 2, 299)]


def test_a_text_begins_as_the_model_s_texts_begin_and_a_conversation_as_its_template_says(
    engine: RecordingEngine, tiny_model_dir: Path
) -> None:
    raw = byte_tokenizer()
    raw.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", END_OF_TEXT)]
    )
    raw.save(str(tiny_model_dir / TOKENIZER))
    ours = completer(engine, tiny_model_dir)
    ours.complete("Once", CompletionOptions())
    ours.complete(list(b"Once"), CompletionOptions())
    ours.chat([{"role": "user", "content": "hi"}], CompletionOptions())
    starts = [asked.prompt_ids[0] for asked in engine.asked]
    assert starts == [END_OF_TEXT, ord("O"), IM_START]


def test_a_wish_goes_before_the_configuration_and_that_before_the_manifest(
    engine: RecordingEngine, tiny_model_dir: Path
) -> None:
    ours = completer(
        engine,
        tiny_model_dir,
        model_defaults={"temperature": 0.7, "top_p": 0.8, "top_k": 20.0, "min_p": 0.05},
        temperature=0.6,
        top_p=0.5,
    )
    params = asked_by(engine, ours, temperature=0.1)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.1, 0.5, 20, 0.05)
    assert type(params.top_k) is int


def test_a_wish_of_zero_is_a_wish(engine: RecordingEngine, tiny_model_dir: Path) -> None:
    ours = completer(
        engine,
        tiny_model_dir,
        model_defaults={"temperature": 0.7, "top_k": 20, "min_p": 0.3},
        top_k=0,
    )
    params = asked_by(engine, ours, temperature=0.0, min_p=0.0)
    assert (params.temperature, params.top_k, params.min_p) == (0, 0, 0)


def test_what_nobody_chose_is_plain_sampling(engine: RecordingEngine, tiny_model_dir: Path) -> None:
    params = asked_by(engine, completer(engine, tiny_model_dir))
    assert dataclasses.replace(params, stop_token_ids=frozenset()) == SamplingParams(
        max_tokens=MAX_MODEL_LEN - 2
    )


def test_every_wish_reaches_the_engine(engine: RecordingEngine, tiny_model_dir: Path) -> None:
    wishes: dict[str, Any] = {
        "max_tokens": 9,
        "temperature": 1.1,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.2,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "logit_bias": {5: 1.5},
        "seed": 77,
    }
    params = asked_by(engine, completer(engine, tiny_model_dir), **wishes)
    assert {name: getattr(params, name) for name in wishes} == wishes


def test_a_top_k_below_zero_is_off_as_other_servers_have_it(
    engine: RecordingEngine, tiny_model_dir: Path
) -> None:
    assert asked_by(engine, completer(engine, tiny_model_dir), top_k=-1).top_k == 0


@pytest.mark.parametrize(
    ("ignore_eos", "expected"), [(False, {IM_END, END_OF_TEXT, 9}), (True, {9})]
)
def test_end_tokens_stop_unless_ignored(
    engine: RecordingEngine, tiny_model_dir: Path, ignore_eos: bool, expected: set[int]
) -> None:
    params = asked_by(
        engine,
        completer(engine, tiny_model_dir),
        stop_token_ids=frozenset({9}),
        ignore_eos=ignore_eos,
    )
    assert params.stop_token_ids == expected


def test_under_a_grammar_end_tokens_stop_in_any_case(
    engine: RecordingEngine, tiny_model_dir: Path
) -> None:
    """They are allowed only where the answer may end, and nothing else ends some forms."""

    async def ask() -> None:
        one = completer(engine, tiny_model_dir)
        grammar = await one.grammar(OutputFormat(FormatKind.REGEX, "a+", "guided_regex"))
        for _ in range(2):
            one.complete("hi", CompletionOptions(ignore_eos=True), grammar)

    asyncio.run(ask())
    assert [asked.params.stop_token_ids for asked in engine.asked] == [{IM_END, END_OF_TEXT}] * 2
    first, second = (asked.constraint for asked in engine.asked)
    assert first is not None and second is not None and first is not second


@pytest.mark.parametrize(
    ("wish", "default", "ceiling", "prompt_length", "expected"),
    [
        (None, 20, 50, 10, 20),
        (None, 60, 50, 10, 50),
        (5, 20, 50, 10, 5),
        (50, 20, 50, 10, 50),
        (50, 20, 50, 80, 20),
        (None, 20, 50, 99, 1),
    ],
)
def test_an_answer_s_length(
    engine: RecordingEngine,
    tiny_model_dir: Path,
    wish: int | None,
    default: int,
    ceiling: int,
    prompt_length: int,
    expected: int,
) -> None:
    ours = completer(engine, tiny_model_dir, default_max_tokens=default, max_tokens_ceiling=ceiling)
    assert asked_by(engine, ours, "x" * prompt_length, max_tokens=wish).max_tokens == expected


def test_more_than_the_ceiling_is_refused_with_both_numbers(
    engine: RecordingEngine, tiny_model_dir: Path
) -> None:
    ours = completer(engine, tiny_model_dir, max_tokens_ceiling=50)
    with pytest.raises(RequestError, match=r"is 51.* 50 tokens") as caught:
        ours.complete("hi", CompletionOptions(max_tokens=51))
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize("length", [MAX_MODEL_LEN, MAX_MODEL_LEN + 50])
def test_a_prompt_without_room_for_an_answer_is_refused_with_both_counts(
    engine: RecordingEngine, tiny_model_dir: Path, length: int
) -> None:
    with pytest.raises(ContextLengthExceededError) as caught:
        completer(engine, tiny_model_dir).complete("x" * length, CompletionOptions())
    assert str(length) in str(caught.value)
    assert str(MAX_MODEL_LEN) in str(caught.value)
    assert caught.value.param == "prompt"
    with pytest.raises(ContextLengthExceededError) as caught:
        completer(engine, tiny_model_dir).chat(
            [{"role": "user", "content": "x" * length}], CompletionOptions()
        )
    assert caught.value.param == "messages"
    assert caught.value.num_prompt_tokens > length
    assert not engine.asked


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_is_refused(
    engine: RecordingEngine, tiny_model_dir: Path, prompt: Any
) -> None:
    with pytest.raises(RequestError, match="empty") as caught:
        completer(engine, tiny_model_dir).complete(prompt, CompletionOptions())
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, 10**12])
def test_ids_that_the_model_does_not_have_are_refused(
    engine: RecordingEngine, tiny_model_dir: Path, token_id: int
) -> None:
    ours = completer(engine, tiny_model_dir)
    with pytest.raises(RequestError, match=f"token id {token_id},.* 0 to 299") as caught:
        ours.complete([1, token_id], CompletionOptions())
    assert caught.value.param == "prompt"
    with pytest.raises(RequestError, match=f"token id {token_id},.* 0 to 299") as caught:
        ours.complete("hi", CompletionOptions(logit_bias={1: 1.0, token_id: 1.0}))
    assert caught.value.param == "logit_bias"
    assert not engine.asked


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 3.0), ("top_p", -1.0), ("max_tokens", 0), ("seed", 2**70)]
)
def test_ranges_are_checked_before_anything_is_queued(
    engine: RecordingEngine, tiny_model_dir: Path, name: str, value: Any
) -> None:
    with pytest.raises(RequestError) as caught:
        asked_by(engine, completer(engine, tiny_model_dir), **{name: value})
    assert caught.value.param == name
    assert not engine.asked


def test_what_the_engine_refuses_is_passed_on(
    engine: RecordingEngine, tiny_model_dir: Path
) -> None:
    engine.full = True
    with pytest.raises(QueueFullError):
        completer(engine, tiny_model_dir).complete("hi", CompletionOptions())


def test_stop_strings_have_text_and_are_not_too_many() -> None:
    CompletionOptions(stop=("x",) * MAX_STOP_STRINGS)
    for stop in (("x",) * (MAX_STOP_STRINGS + 1), ("a", "")):
        with pytest.raises(RequestError) as caught:
            CompletionOptions(stop=stop)
        assert caught.value.param == "stop"
