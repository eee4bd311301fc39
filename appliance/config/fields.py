"""What one declared setting is, and how a value is checked against it."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

ENVIRONMENT_PREFIX = "QWEN_APPLIANCE_"

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TOO_LARGE = 10**18  # for any number here, and short of what int -> float or C can choke on
_TRUTHS = {"true": True, "false": False}
_KIND_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    tuple: "a list of texts",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What the type of a setting cannot say.

    `help` is one sentence without a full stop. `ge`, `gt` and `le` bound numbers (at least, above,
    at most). `option` is the command line option that sets it, besides `--set`.
    """

    help: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    option: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared field; no `choices` means any value.

    `kind` is bool, int, float, str, Path or tuple, which is several texts.
    """

    section: str
    name: str
    kind: type
    optional: bool
    choices: tuple[str, ...]
    default: object
    rule: Rule

    @property
    def key(self) -> str:
        """The dotted name, `server.port`."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable, `QWEN_APPLIANCE_SERVER_PORT`."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.name}".upper()

    @property
    def expectation(self) -> str:
        """What may stand there, in words: `a whole number from 0 to 65535`."""
        if self.choices:
            words = "one of " + ", ".join(self.choices)
        else:
            words = _KIND_WORDS[self.kind] + _range_words(self.rule)
        return words + (" or null" if self.optional else "")

    def from_yaml(self, value: object, base: Path) -> object:
        """`value`, as a YAML parser gave it, checked; a relative path starts at `base`.

        Raises `ValueError` whose text is what was expected. Types are not bent: the text "8000" is
        no number and `true` is no 1.
        """
        if value is None and self.optional:
            return None
        if self.kind is Path and isinstance(value, str):
            return self._path(value, base)
        if self.kind is tuple and isinstance(value, list):
            return self._texts(value)
        if self.kind is float and type(value) is int:
            return float(self._checked(value))
        if type(value) is not self.kind:
            return self._refuse()
        return self._checked(value)

    def from_text(self, text: str) -> object:
        """`text` of an environment variable or argument, checked; relative paths stay relative.

        "" and "null" mean null where null is allowed; commas part the texts of a list. Raises
        `ValueError` whose text is what was expected.
        """
        if self.optional and text in ("", "null"):
            return None
        if self.kind is tuple:
            return self._texts([part.strip() for part in text.split(",")] if text.strip() else [])
        if self.kind is Path:
            return self._path(text, Path())
        if self.kind is bool:
            return _TRUTHS[text] if text in _TRUTHS else self._refuse()
        if self.kind is int:
            return self._checked(int(text)) if _WHOLE_NUMBER.fullmatch(text) else self._refuse()
        if self.kind is float:
            return self._checked(float(text)) if _NUMBER.fullmatch(text) else self._refuse()
        return self._checked(text)

    def _checked(self, value: Any) -> Any:
        """`value`, which is of the right kind, if it is within the range or among the choices."""
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            allowed = value in self.choices if self.choices else bool(value.strip())
        else:
            allowed = _within(self.rule, value)
        return value if allowed else self._refuse()

    def _texts(self, values: list[Any]) -> tuple[str, ...]:
        if not all(isinstance(value, str) and value.strip() for value in values):
            self._refuse()
        return tuple(values)

    def _path(self, text: str, base: Path) -> Path:
        if not text or "\0" in text:
            self._refuse()
        try:
            return base / Path(text).expanduser()
        except RuntimeError as error:  # "~" without a known home
            raise ValueError(f"expected {self.expectation}; {error}") from None

    def _refuse(self) -> typing.NoReturn:
        raise ValueError(f"expected {self.expectation}")


def settings_of(config: type[Any]) -> tuple[Setting, ...]:
    """The settings declared by `config`, a dataclass whose fields are sections, in their order."""
    return tuple(
        setting
        for section, section_class in typing.get_type_hints(config).items()
        for setting in _settings_of_section(section, section_class)
    )


def _settings_of_section(section: str, section_class: type[Any]) -> typing.Iterator[Setting]:
    hints = typing.get_type_hints(section_class, include_extras=True)
    for field in dataclasses.fields(section_class):
        annotation = hints[field.name]
        assert typing.get_origin(annotation) is Annotated, f"{section}.{field.name} has no Rule"
        declared, rule = typing.get_args(annotation)
        optional = isinstance(declared, types.UnionType) or (
            typing.get_origin(declared) is typing.Union
        )
        kind = typing.get_args(declared)[0] if optional else declared
        choices: tuple[str, ...] = ()
        if typing.get_origin(kind) is Literal:
            kind, choices = str, typing.get_args(kind)
        kind = typing.get_origin(kind) or kind
        assert kind in _KIND_WORDS, f"{section}.{field.name} is of a kind without a parser: {kind}"
        yield Setting(section, field.name, kind, optional, choices, field.default, rule)


def _within(rule: Rule, value: float) -> bool:
    return (
        abs(value) < _TOO_LARGE  # false for NaN and the infinities, too
        and (rule.ge is None or value >= rule.ge)
        and (rule.gt is None or value > rule.gt)
        and (rule.le is None or value <= rule.le)
    )


def _range_words(rule: Rule) -> str:
    if rule.ge is not None and rule.le is not None:
        return f" from {rule.ge} to {rule.le}"
    bounds = (("of at least", rule.ge), ("above", rule.gt), ("up to", rule.le))
    return "".join(f" {words} {bound}" for words, bound in bounds if bound is not None)
