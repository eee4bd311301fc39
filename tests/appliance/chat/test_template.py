"""Chat templates: rendered as transformers renders them, in a sandbox."""

from __future__ import annotations

import datetime
import re

import pytest

from appliance.chat.template import ChatTemplate, PromptEnd
from appliance.errors import RequestError
from tests.tiny_model import TEMPLATE

USER = {"role": "user", "content": "hi"}


def render(text: str, *messages: dict[str, object], **special_tokens: str) -> str:
    return ChatTemplate(text, special_tokens).render(messages or (USER,))


def test_chatml_ends_where_the_answer_begins() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert render(TEMPLATE, system, USER) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_blocks_leave_no_lines_behind() -> None:
    text = """{% for m in messages %}
    {% if m.role == 'user' %}
U: {{ m.content }}
    {% endif %}
{% endfor %}
"""
    assert render(text, USER, USER) == "U: hi\nU: hi\n"


def test_loop_controls_are_there() -> None:
    loop = "{% for m in messages %}"
    text = loop + "{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    assert render(text, USER, USER, USER) == "hi"


def test_tojson_keeps_text_readable() -> None:
    message = {"role": "user", "content": "你好 <b> & 'x' 👍"}
    assert render("{{ messages[0].content | tojson }}", message) == "\"你好 <b> & 'x' 👍\""


def test_tojson_takes_what_transformers_takes() -> None:
    message = {"role": "user", "content": {"b": "你", "a": [1, 2]}}
    text = "{{ messages[0].content | tojson(%s) }}"
    assert render(text % "ensure_ascii=True", message) == '{"b": "\\u4f60", "a": [1, 2]}'
    assert render(text % "sort_keys=True, separators=(',', ':')", message) == '{"a":[1,2],"b":"你"}'
    assert render(text % "indent=1", {"role": "user", "content": [1]}) == "[\n 1\n]"


def test_special_tokens_have_names() -> None:
    assert (
        render("{{ bos_token }}|{{ eos_token }}", bos_token="<s>", eos_token="</s>") == "<s>|</s>"
    )


def test_tools_and_documents_are_none_as_in_transformers() -> None:
    text = "{% if tools is not none or documents is not none %}tools!{% endif %}ok"
    assert render(text) == "ok"


def test_a_template_that_refuses_says_why() -> None:
    text = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}ok"
    assert render(text, USER) == "ok"
    with pytest.raises(RequestError, match="user first") as caught:
        render(text, {"role": "assistant", "content": "hi"})
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages[7].content.strip() }}",
        "{{ 1 // (messages | length - 1) }}",
        "{{ messages[0].content.index('z') }}",
    ],
)
def test_whatever_a_template_stumbles_over_is_the_request_s_error(text: str) -> None:
    """A template's own language raises TypeError and the like for messages it did not expect."""
    with pytest.raises(RequestError, match="chat template") as caught:
        render(text)
    assert caught.value.param == "messages"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['datetime'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ ('%s' | attr('format')).__self__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ messages[0].update({'content': 'changed'}) }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(text: str) -> None:
    message: dict[str, object] = {"role": "user", "content": "hi"}
    try:
        rendered = ChatTemplate(text, {}).render([message])
    except RequestError:
        rendered = ""
    assert not re.search("class|function|module|root|changed", rendered)
    assert message == {"role": "user", "content": "hi"}


def test_the_date_of_today() -> None:
    before = datetime.datetime.now()
    rendered = render("{{ strftime_now('%Y-%m-%d') }}")
    assert rendered in {when.strftime("%Y-%m-%d") for when in (before, datetime.datetime.now())}


@pytest.mark.parametrize("text", ["{% for %}", "{{ x | no_such_filter }}", "{% if %}", "{{ 'a }}"])
def test_what_is_no_template_is_told_with_its_line(text: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        ChatTemplate("first line\n" + text, {})


QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ('user', 'assistant') or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
BEGUN = {"role": "assistant", "content": "Paris is "}


def test_a_message_that_goes_on_is_open_at_its_end() -> None:
    asked = "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    template = ChatTemplate(QWEN, {})
    begun = asked + "<|im_start|>assistant\nParis is "
    assert template.render([USER, BEGUN]) == begun
    assert template.render([USER, BEGUN], end=PromptEnd.LAST_MESSAGE) == begun
    assert template.render([USER, BEGUN], end=PromptEnd.NOTHING) == begun + "<|im_end|>\n"
    new = begun + "<|im_end|>\n<|im_start|>assistant\n"
    assert template.render([USER, BEGUN], end=PromptEnd.NEW_MESSAGE) == new
    assert template.render([USER]) == asked + "<|im_start|>assistant\n"
    assert template.render([USER], end=PromptEnd.NOTHING) == asked


def test_a_text_that_stands_there_twice_goes_on_where_it_is_last() -> None:
    template = ChatTemplate(QWEN, {})
    once = template.render([USER, BEGUN, USER, BEGUN])
    assert once.count("Paris is ") == 2 and once.endswith("assistant\nParis is ")


def test_a_template_that_trims_keeps_the_end_of_what_is_begun() -> None:
    text = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    message = {"role": "assistant", "content": "  so far "}
    assert render(text, message) == "[so far "


def test_a_call_of_a_tool_does_not_go_on() -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    assert ChatTemplate(QWEN, {}).render([USER, called]).endswith("<|im_start|>assistant\n")


def test_a_template_that_leaves_the_last_message_out_cannot_go_on() -> None:
    with pytest.raises(RequestError, match="cannot go on") as caught:
        ChatTemplate("nothing", {}).render([BEGUN])
    assert caught.value.param == "messages"
