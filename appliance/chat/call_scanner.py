"""Reads one tool call, `{"name": ..., "arguments": {...}}`, character by character.

What is handed out of the arguments is part of them for good, whatever comes behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

_CLOSING = {"{": "}", "[": "]"}
_ARGUMENTS = ("arguments", "parameters")
_BLANK = " \t\r\n"


class CallScanner:
    """Feed text; `name` is there once it is known, the arguments' text comes from `take()`.

    `key` is the one read last. Keys may come in any order and others beside them, `parameters` may
    stand for `arguments`, and those may be written as a string with JSON in it. `ended` when the
    call is whole or what came can be no part of one; there is a call if there is a name.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.ended = False
        self._read: Callable[[str], bool] = self._opening
        self.key = ""
        self._value = _Value()
        self._has_arguments = False
        self._ready = ""

    def feed(self, text: str) -> int:
        """Read `text`, and return how much of it belongs to the call: less than all if it ended."""
        for position, character in enumerate(text):
            if not self._read(character):
                self.ended = True
                return position
            if self.ended:
                return position + 1
        return len(text)

    def take(self) -> str:
        """The arguments' text since the last call, "" before the name is known."""
        if self.name is None:
            return ""
        ready, self._ready = self._ready, ""
        return ready

    def close(self) -> None:
        """Nothing more comes: what was left open of the arguments is closed, none are `{}`."""
        self.ended = True
        if self._is_in_arguments and self._value.is_container:
            self._ready += self._value.closing()
        elif not self._has_arguments:
            self._ready += "{}"
        self._has_arguments = True

    @property
    def _is_in_arguments(self) -> bool:
        return self._read == self._inside and self.key in _ARGUMENTS

    def _opening(self, character: str) -> bool:
        if character == "{":
            self._read = self._before_key
        return character == "{" or character in _BLANK

    def _before_key(self, character: str) -> bool:
        if character == '"':
            self._value = _Value()
            self._value.feed(character)
            self._read = self._in_key
        elif character == "}":
            self.close()
        return character == '"' or character == "}" or character in _BLANK

    def _in_key(self, character: str) -> bool:
        if self._value.feed(character) and self._value.is_whole:
            self.key = self._value.decoded()
            self._read = self._before_colon
        return True

    def _before_colon(self, character: str) -> bool:
        if character == ":":
            self._read = self._before_value
        return character == ":" or character in _BLANK

    def _before_value(self, character: str) -> bool:
        if character in _BLANK:
            return True
        self._value = _Value()
        self._read = self._inside
        return self._inside(character)

    def _inside(self, character: str) -> bool:
        value = self._value
        taken = value.feed(character)
        if taken and self.key in _ARGUMENTS and value.is_container:
            self._has_arguments = True
            self._ready += character
        if taken and not value.is_whole:
            return True
        if not value.is_whole and value.is_container:
            return False
        self._read = self._behind_value
        self._keep(value)
        return taken or self._behind_value(character)

    def _behind_value(self, character: str) -> bool:
        if character == ",":
            self._read = self._before_key
        elif character == "}":
            self.close()
        return character in ",}" or character in _BLANK

    def _keep(self, value: _Value) -> None:
        if self.key == "name":
            name = value.decoded()
            self.name = name or None
        elif self.key in _ARGUMENTS and not value.is_container:
            # Written as a string, as the wire has it; null and the like are no arguments.
            self._ready += value.decoded() or "{}"
            self._has_arguments = True


class _Value:
    """One JSON value. Brackets and strings are minded, the rest is taken as it is."""

    def __init__(self) -> None:
        self.is_whole = False
        self.is_container = False
        self._text = ""
        self._open: list[str] = []
        self._in_string = False
        self._escaped = False

    def feed(self, character: str) -> bool:
        """Take a character; False if the value does not go on with it."""
        if self._in_string:
            self._string(character)
        elif character == '"':
            if self._text and not self._open:
                return False
            self._in_string = True
        elif character in _CLOSING:
            if self._text and not self._open:
                return False
            self.is_container = True
            self._open.append(_CLOSING[character])
        elif self._open:
            if not self._inside(character):
                return False
        elif character in ",}]<" or character in _BLANK:
            self.is_whole = bool(self._text)
            return False
        self._text += character
        return True

    def decoded(self) -> str:
        """What a string says; "" for any other value."""
        try:
            value = json.loads(self._text, strict=False)
        except ValueError:
            return ""
        return value if isinstance(value, str) else ""

    def closing(self) -> str:
        """What is missing of brackets and quotes."""
        if not self._in_string:
            return "".join(reversed(self._open))
        return ("\\" if self._escaped else "") + '"' + "".join(reversed(self._open))

    def _string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            self.is_whole = not self._open

    def _inside(self, character: str) -> bool:
        if character in "}]":
            if character != self._open.pop():
                return False
            self.is_whole = not self._open
        return character != "<"
