"""The error tree as its module draws it, and what every error must carry."""

from __future__ import annotations

import inspect
import re

import pytest

from appliance import errors
from appliance.errors import (
    ApplianceError,
    BindError,
    ConfigError,
    ContextLengthExceededError,
    DeadlineExceededError,
    ModelDirError,
    ModelNotFoundError,
    QueueFullError,
    RequestError,
)


def classes() -> dict[str, type[ApplianceError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }


def drawn_tree() -> dict[str, str]:
    """Each class of the docstring's drawing and the one it hangs from: four columns a level."""
    parents: dict[str, str] = {}
    path: list[str] = []
    drawing = inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1]
    for branch, name in re.findall(r"^([│├└─ ]*)(\w+)", drawing, re.MULTILINE):
        depth = len(branch) // 4
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_drawing_is_the_tree() -> None:
    real = {name: cls.__mro__[1].__name__ for name, cls in classes().items()}
    assert drawn_tree() == real


def test_every_error_is_an_appliance_error_with_an_exit_code() -> None:
    for cls in classes().values():
        assert issubclass(cls, ApplianceError)
        assert 1 <= cls.exit_code <= 125


def test_an_exit_code_has_one_meaning() -> None:
    codes = [cls.exit_code for cls in classes().values() if "exit_code" in vars(cls)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ConfigError("server.port", "x", "a number", "argument"),
            ["server.port", "'x'", "a number", "argument"],
        ),
        (ModelDirError("/models/m", "has no manifest.json"), ["/models/m", "no manifest.json"]),
        (BindError("0.0.0.0", 80, "permission denied"), ["0.0.0.0:80", "permission denied"]),
        (DeadlineExceededError(2.5), ["2.5 s", "engine.request_timeout_s"]),
        (ContextLengthExceededError(700, 512, "messages"), ["700", "512", "shorten"]),
        (ModelNotFoundError("gpt", "qwen"), ["'gpt'", "'qwen'"]),
    ],
)
def test_an_error_names_what_was_wrong_in_one_line(error: ApplianceError, told: list[str]) -> None:
    text = str(error)
    assert "\n" not in text
    for words in told:
        assert words in text


def test_data_stands_on_the_error() -> None:
    config = ConfigError("a.b", 5, "less")
    assert (config.key, config.value, config.expected, config.source) == ("a.b", 5, "less", "")
    assert QueueFullError("full", retry_after_s=3).retry_after_s == 3
    assert RequestError("wrong").param is None
    context = ContextLengthExceededError(7, 5, "prompt")
    assert (context.num_prompt_tokens, context.max_model_len, context.param) == (7, 5, "prompt")
