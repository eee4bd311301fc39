"""Reads the licence from a model card (README.md)."""

from __future__ import annotations

import re
from pathlib import Path

_LICENSE = re.compile(r"^license:[ \t]*['\"]?([\w.+-]+)['\"]?[ \t]*$", re.MULTILINE)


def license_of(card: Path) -> str | None:
    """The `license` of the card's front matter, or None without a card, front matter or licence.

    One line of YAML is all that is looked for, so no YAML parser is imported.
    """
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n"):
        return None
    front_matter = text[4:].partition("\n---")[0]
    match = _LICENSE.search(front_matter)
    return match.group(1) if match else None
