"""Text to text and tool calls, as it comes: what was handed out is never taken back.

Qwen2.5 writes a call as `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`.
Small models forget the tags, put the object into a code fence instead, or take the tags in which
they were shown the tools. All of these are calls; no tag of theirs becomes text.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass

from appliance.chat.call_scanner import CallScanner

_OPENING = "<tool_call>"
_TAGS = (_OPENING, "</tool_call>", "<tools>", "</tools>", "<tool_response>", "</tool_response>")
_FENCE = "```"
# An object without a tag is a call if it begins with the name of a tool within so many characters.
_MAX_UNDECIDED = 200


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of the `index`-th call. Its first one has `id` and `name`, others `arguments`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What some text came down to."""

    text: str
    calls: tuple[CallDelta, ...]


class ToolCallParser:
    """Feed text of one answer. The text before the first call is text; what is behind it and no
    call is dropped.

    `names` are the tools' names: only those make an object without tags a call. Of more than
    `max_calls` calls the first ones are handed out.
    """

    def __init__(self, names: Collection[str], *, max_calls: int | None = None) -> None:
        self._names = frozenset(names)
        self._max_calls = max_calls
        self._pending = ""
        self._blanks = ""
        self._at_line_start = True
        self._call: CallScanner | None = None
        self._tagged = ""
        self._announced = False
        self._text: list[str] = []
        self._calls: list[CallDelta] = []
        self.num_calls = 0

    def feed(self, text: str) -> Parsed:
        """What is certain by now."""
        self._pending += text
        self._read()
        return self._parsed()

    def feed_last(self, text: str, *, cut: bool) -> Parsed:
        """What `text` and all that was held back come down to, since nothing follows.

        Open arguments are closed, unless the answer was `cut` short.
        """
        self._pending += text
        self._read()
        while self._pending or self._call:
            if self._call is None:
                self._give_up(1)
            elif self._call.name is None:
                self._is_no_call()
            else:
                if not cut:
                    self._call.close()
                    self._hand_out(self._call)
                break
            self._read()
        if not self.num_calls:
            self._text.append(self._blanks)
        self._pending = self._blanks = ""
        return self._parsed()

    def _read(self) -> None:
        while self._pending and (self._in_call() if self._call else self._in_text()):
            pass

    def _parsed(self) -> Parsed:
        parsed = Parsed("".join(self._text), tuple(self._calls))
        self._text, self._calls = [], []
        return parsed

    def _in_text(self) -> bool:
        """Take the beginning off `pending`; False when nothing can be said before more comes."""
        pending = self._pending
        start = next((i for i in range(len(pending)) if self._may_begin(pending, i)), len(pending))
        if start:
            self._write(pending[:start])
            self._pending = pending[start:]
            return True
        if pending[0] == "<":
            return self._tag()
        return self._untagged()

    def _may_begin(self, text: str, position: int) -> bool:
        character = text[position]
        if character == "<":
            return True
        if character not in "{[`":
            return False
        before = text[:position].rstrip(" \t")
        return bool(self.num_calls) or (before.endswith("\n") if before else self._at_line_start)

    def _tag(self) -> bool:
        for tag in _TAGS:
            if self._pending.startswith(tag):
                self._pending = self._pending[len(tag) :]
                self._at_line_start = True
                if tag == _OPENING:
                    self._begin(CallScanner())
                return True
        if any(tag.startswith(self._pending) for tag in _TAGS):
            return False
        return self._give_up(1)

    def _untagged(self) -> bool:
        """An object or a list of some, perhaps in a fence, that may be a call."""
        start = _start_of_object(self._pending)
        if start is None:
            return False
        if start < 0:
            return self._give_up(-start)
        scanner = CallScanner()
        scanner.feed(self._pending[start:])
        if scanner.name in self._names:
            self._pending = self._pending[start:]
            self._begin(CallScanner())
            return True
        undecided = scanner.name is None and not scanner.ended and scanner.key in ("", "name")
        if undecided and len(self._pending) - start < _MAX_UNDECIDED:
            return False
        return self._give_up(start + 1)

    def _give_up(self, length: int) -> bool:
        """The first `length` characters are text."""
        self._write(self._pending[:length])
        self._pending = self._pending[length:]
        return True

    def _write(self, text: str) -> None:
        """`text` is text, if no call was before it. Blanks wait for what follows them."""
        if self.num_calls or not text:
            return
        text = self._blanks + text
        kept = text.rstrip()
        self._blanks = text[len(kept) :]
        self._text.append(kept)
        line = text.rstrip(" \t")
        self._at_line_start = (not line and self._at_line_start) or line.endswith("\n")

    def _begin(self, scanner: CallScanner) -> None:
        self._call, self._tagged, self._announced = scanner, "", False

    def _in_call(self) -> bool:
        call = self._call
        assert call is not None
        taken = call.feed(self._pending)
        self._tagged += self._pending[:taken]
        self._pending = self._pending[taken:]
        if call.ended:
            if call.name is None:
                self._is_no_call()
                return True
            self._call = None
            call.close()
        self._hand_out(call)
        return bool(self._pending)

    def _is_no_call(self) -> None:
        """What came behind the tag is to be read again, without it."""
        self._pending, self._call = self._tagged + self._pending, None

    def _hand_out(self, call: CallScanner) -> None:
        if call.name is None:
            return
        if not self._announced:
            self._announced = True
            self.num_calls += 1
            if self._is_wanted:
                call_id = f"call_{uuid.uuid4().hex[:24]}"
                self._calls.append(CallDelta(self.num_calls - 1, call_id, call.name))
        arguments = call.take()
        if arguments and self._is_wanted:
            self._calls.append(CallDelta(self.num_calls - 1, arguments=arguments))

    @property
    def _is_wanted(self) -> bool:
        return self._max_calls is None or self.num_calls <= self._max_calls


def _start_of_object(text: str) -> int | None:
    """Where in `text`, which begins with a bracket or a backtick, an object begins.

    None: more text is needed. Negative: nowhere, and so many characters are text.
    """
    position = 0
    if text[0] == "`":
        if len(text) < len(_FENCE):
            return None if _FENCE.startswith(text) else -1
        if not text.startswith(_FENCE):
            return -1
        end = text.find("\n")
        if end < 0:
            return None if len(text) < _MAX_UNDECIDED else -len(_FENCE)
        position = end + 1
    rest = text[position:].lstrip()
    if rest.startswith("["):
        rest = rest[1:].lstrip()
    if not rest:
        return None if len(text) < _MAX_UNDECIDED else -1
    if rest[0] != "{":
        return -max(position, 1)
    return len(text) - len(rest)
