"""What is printed: for people in 80 columns, for programs as JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from appliance import __version__
from appliance.doctor.examination import worst
from appliance.doctor.finding import Level, Section

SCHEMA = 1
"""Of the JSON; raised when a field changes or goes, not when one is added."""
_MARKS = {Level.OK: "ok", Level.NOTE: "note", Level.PROBLEM: "PROBLEM"}
_WIDTH = 80
_INDENT = 10  # of the text, behind the mark
_REMEDY = "-> "


def as_text(sections: Sequence[Section]) -> Iterator[str]:
    """Lines without line ends, of 80 columns but for words that are longer."""
    for section in sections:
        if not section.findings:
            continue
        yield section.name
        for finding in section.findings:
            mark = f"  {_MARKS[finding.level]}"
            yield from _wrapped(finding.text, f"{mark:<{_INDENT}}", _INDENT)
            if finding.remedy:
                yield from _wrapped(finding.remedy, " " * _INDENT + _REMEDY, _INDENT + len(_REMEDY))
        yield ""
    counts = count(sections)
    yield ", ".join(
        f"{counts[level.value]} {one if counts[level.value] == 1 else several}"
        for level, one, several in (
            (Level.PROBLEM, "problem", "problems"),
            (Level.NOTE, "note", "notes"),
            (Level.OK, "as it should be", "as they should be"),
        )
    )


def as_json(sections: Sequence[Section], created: str) -> str:
    """One object, ending with a newline; its fields stand in the README of this folder."""
    told = {
        "schema": SCHEMA,
        "version": __version__,
        "created": created,
        "verdict": worst(sections),
        "counts": count(sections),
        "facts": {section.name: section.facts for section in sections},
        "findings": [
            {
                "id": finding.id,
                "section": section.name,
                "level": finding.level.value,
                "text": finding.text,
                "remedy": finding.remedy or None,
            }
            for section in sections
            for finding in section.findings
        ],
    }
    return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def count(sections: Sequence[Section]) -> dict[str, int]:
    """Findings of each level."""
    counted = Counter(one.level.value for section in sections for one in section.findings)
    return {level.value: counted[level.value] for level in Level}


def _wrapped(text: str, first: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
