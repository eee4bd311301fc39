"""What chat UIs and agents do besides asking: all of it at once, again, differently, half-way."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from appliance.config import Config, EngineConfig
from tests.fakes import FakeRunner
from tests.server import CHAT, Served, chat_body, events, raw_request, wait_until

Message = dict[str, Any]


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


def assistant(content: Any) -> Message:
    return {"role": "assistant", "content": content}


def ask(served: Served, messages: list[Message], **fields: Any) -> Any:
    response = served.client.post(CHAT, json={"model": "tiny", "messages": messages, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def cached(answer: Any) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def last_prompt(served: Served) -> str:
    """The prompt of the only request since the last reset, special tokens as \\x01."""
    ids = [i for step in served.runner.passes for chunk in step for i in chunk.token_ids]
    return bytes(i if i < 256 else 1 for i in ids).decode()


def test_side_requests_run_beside_a_chat_and_leave_its_prefix_alone(tiny_model_dir: Path) -> None:
    """Title, tags and follow-ups are asked for while the answer still streams."""
    # Greedy, and without drafts: what is computed depends on the tokens alone.
    config = Config(engine=EngineConfig(prompt_lookup=False))
    tasks = [
        "Write a title for this chat: tell me a story",
        "Write three tags for this chat: tell me a story",
        "Suggest follow-ups for this chat: tell me a story",
    ]

    def alone(content: str) -> str:
        with Served(tiny_model_dir, FakeRunner(max_slots=6, max_model_len=2048), config) as served:
            return text_of(ask(served, [user(content)], max_tokens=20, temperature=0))

    expected = [alone(content) for content in tasks]
    with Served(tiny_model_dir, FakeRunner(max_slots=6, max_model_len=2048), config) as served:
        story = [user("tell me a story")]
        served.runner.step_s = 0.002
        fields = {"max_tokens": 150, "temperature": 0}
        with ThreadPoolExecutor(4) as pool:
            chat = pool.submit(ask, served, story, **fields)
            wait_until(lambda: served.num_open == 1)
            titles = [
                pool.submit(ask, served, [user(content)], max_tokens=20, temperature=0)
                for content in tasks
            ]
            assert [text_of(title.result(20)) for title in titles] == expected
            assert not chat.done(), "short ones do not wait for the long one"
            answer = chat.result(20)
        served.check_no_leak()
        known = answer["usage"]["total_tokens"] - 1
        # What comes back is text: a byte that was no character is another one now.
        turn = [*story, assistant(text_of(answer)), user("go on")]
        prompt = answer["usage"]["prompt_tokens"]
        assert prompt - 1 <= cached(ask(served, turn, max_tokens=1)) <= known + 1


def test_abort_and_regenerate(served: Served) -> None:
    """The stop button, then the same question again: the prompt is known, the answer whole."""
    served.answer_forever()
    served.runner.step_s = 0.002
    messages = [user("tell me a story")]
    body = {"model": "tiny", "messages": messages, "stream": True, "max_tokens": 400}
    for _ in range(3):
        with raw_request(served.address, CHAT, body) as connection:
            assert connection.recv(1) == b"H"
        served.check_no_leak()
    served.runner.step_s = 0
    served.answer("once")
    answer = ask(served, messages)
    assert text_of(answer) == "once"
    assert cached(answer) == answer["usage"]["prompt_tokens"] - 1


def test_regenerating_with_another_seed_is_another_answer(served: Served) -> None:
    served.runner.next_token = lambda token_ids: 0
    fields = {"temperature": 1, "max_tokens": 12, "logit_bias": {"0": -40}}
    answers = {text_of(ask(served, [user("hi")], **fields)) for _ in range(4)}
    assert len(answers) == 4, "without a seed no two are the same"


def test_an_edited_history_is_answered_as_if_it_had_always_been_so(tiny_model_dir: Path) -> None:
    history = [user("my name is Ann"), assistant("hello Ann"), user("what is my name?")]
    edited = [user("my name is Bob"), assistant("hello Ann"), user("what is my name?")]
    fields = {"max_tokens": 12, "temperature": 0}
    with Served(tiny_model_dir) as served:
        fresh = ask(served, edited, **fields)
    with Served(tiny_model_dir) as served:
        ask(served, history, **fields)
        answer = ask(served, edited, **fields)
        assert text_of(answer) == text_of(fresh)
        assert cached(answer) == len("\x01user\nmy name is ")
        # A message that is taken out, and one that is put in.
        ask(served, [history[0], history[2]], **fields)
        assert text_of(ask(served, history, **fields)) != ""
        assert text_of(ask(served, edited, **fields)) == text_of(fresh)


@pytest.mark.parametrize("content", ["", " ", "\n", [], [{"type": "text", "text": ""}], None])
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_empty_content_of_every_role(served: Served, role: str, content: Any) -> None:
    messages = [{"role": role, "content": content}, user("hi")]
    assert text_of(ask(served, messages)) == "hello"


def test_content_in_parts_is_one_text(served: Served) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "你"}]
    served.reset()
    served.answer("hello")
    ask(served, [{"role": "system", "content": parts}, assistant(parts), user(parts)], max_tokens=1)
    assert last_prompt(served) == (
        "\x01system\na你\x01\n\x01assistant\na你\x01\n\x01user\na你\x01\n\x01assistant\n"
    )


def test_another_model_s_refusal_comes_back_as_a_text(served: Served) -> None:
    served.reset()
    served.answer("hello")
    refused = [{"type": "refusal", "refusal": "I cannot."}]
    ask(served, [user("do it"), assistant(refused), user("why?")], max_tokens=1)
    assert "\x01assistant\nI cannot.\x01" in last_prompt(served)


@pytest.mark.parametrize("stream", [False, True])
def test_an_image_is_refused_in_words_that_help(served: Served, stream: bool) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    messages = [user("hi"), user([{"type": "text", "text": "what is this?"}, image])]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=messages, stream=stream)  # type: ignore[call-overload]
    assert caught.value.param == "messages"
    assert "messages[1].content[1]" in caught.value.message
    assert "'image_url'" in caught.value.message and "text only" in caught.value.message


def test_system_and_developer_messages_anywhere(served: Served) -> None:
    messages = [
        {"role": "system", "content": "s"},
        user("u"),
        {"role": "developer", "content": "d"},
        {"role": "system", "content": "t"},
    ]
    ask(served, messages, max_tokens=1)
    assert last_prompt(served) == (
        "\x01system\ns\x01\n\x01user\nu\x01\n\x01system\nd\x01\n\x01system\nt\x01\n\x01assistant\n"
    )


def test_what_uis_add_to_requests_is_tolerated(served: Served) -> None:
    message = {**user("hi"), "id": "m1", "timestamp": 5, "reasoning_content": None}
    extra: dict[str, Any] = {
        "chat_id": "c1",
        "session_id": "s1",
        "features": {"web_search": False},
        "background_tasks": {"title_generation": True},
        "tools": [],
        "tool_choice": "auto",
        "stop": None,
        "max_tokens": None,
        "logit_bias": {},
        "metadata": {"a": "b"},
    }
    assert text_of(ask(served, [message], **extra)) == "hello"


def test_an_answer_goes_back_in_as_it_came_out(served: Served) -> None:
    first = ask(served, [user("hi")])
    messages = [user("hi"), first["choices"][0]["message"], user("more")]
    assert cached(ask(served, messages)) == first["usage"]["total_tokens"]


PREFILLED = "\x01user\nhi\x01\n\x01assistant\nThe answer is"


@pytest.mark.parametrize("fields", [{}, {"continue_final_message": True}])
@pytest.mark.parametrize("content", ["The answer is", [{"type": "text", "text": "The answer is"}]])
def test_an_assistants_message_at_the_end_goes_on(
    served: Served, content: Any, fields: dict[str, Any]
) -> None:
    served.answer(" 4.", behind=b"is")
    answer = ask(served, [user("hi"), assistant(content)], **fields)
    assert text_of(answer) == " 4.", "only what is new"
    assert last_prompt(served).startswith(PREFILLED)
    assert answer["usage"]["prompt_tokens"] == len(PREFILLED)
    chunks = events(
        served.client.post(
            CHAT,
            json={"model": "tiny", "messages": [user("hi"), assistant(content)], "stream": True},
        )
    )
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == " 4."


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"continue_final_message": False}, "\x01\n\x01assistant\n"),
        ({"add_generation_prompt": True}, "\x01\n\x01assistant\n"),
        ({"add_generation_prompt": False}, "\x01\n"),
        ({"add_generation_prompt": False, "continue_final_message": True}, ""),
    ],
)
def test_the_client_may_say_where_to_go_on(
    served: Served, fields: dict[str, Any], end: str
) -> None:
    messages = [user("hi"), assistant("The answer is")]
    ask(served, messages, max_tokens=1, **fields)
    assert last_prompt(served) == PREFILLED + end
    tokens = served.client.post("/v1/tokenize", json={"messages": messages, **fields}).json()
    assert tokens["count"] == len(PREFILLED + end)


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([user("hi")], {"continue_final_message": True}, "continue_final_message"),
        (
            [user("hi"), assistant("a")],
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
    ],
)
def test_what_cannot_go_on(
    served: Served, messages: list[Message], fields: dict[str, Any], param: str
) -> None:
    for path in (CHAT, "/v1/tokenize"):
        response = served.client.post(path, json={"model": "tiny", "messages": messages, **fields})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_an_assistants_empty_message_is_where_an_answer_begins(served: Served) -> None:
    ask(served, [user("hi"), assistant("")], max_tokens=1)
    assert last_prompt(served) == "\x01user\nhi\x01\n\x01assistant\n"


def test_a_conversation_of_many_turns(served: Served) -> None:
    messages: list[Message] = []
    for turn in range(12):
        messages.append(user(f"q{turn}"))
        answer = ask(served, messages)
        messages.append(answer["choices"][0]["message"])
        if turn:
            num_new = len(f"\x01\n\x01user\nq{turn}\x01\n\x01assistant\n")
            assert cached(answer) == answer["usage"]["prompt_tokens"] - num_new
    assert json.dumps(messages).count("hello") == 12


def test_a_body_in_utf_16_or_with_a_mark_in_front(served: Served) -> None:
    body = json.dumps(chat_body("你好"), ensure_ascii=False)
    for encoded in (body.encode("utf-16"), b"\xef\xbb\xbf" + body.encode()):
        response = served.client.post(CHAT, content=encoded)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_value"
