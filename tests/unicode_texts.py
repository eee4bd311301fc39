"""Makes texts of characters that are easily broken: several bytes each, several for one sign."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

_HAN = (*range(0x4E00, 0x9FA6), *range(0x3400, 0x3500), *range(0x20000, 0x20100))
_HAN_MARKS = "，。！？：；「」《》…—　"
_ARABIC = "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأإةى"
_ARABIC_MARKS = "\u064b\u064e\u0650\u0651\u0652\u0640\u200f\u200e،؟٠١٢٣ ﷽ﻻ"
_PEOPLE = "👩👨🧑👧👦👶"
_OBJECTS = ("🚀", "❤\ufe0f", "🔥", "🌾", "🏳\ufe0f", "🌈", "⚕\ufe0f", "♂\ufe0f", "💻")
_SKINS = ("", "🏻", "🏽", "🏿")
_JOINER = "\u200d"
_BASES = "aeionuAEÅçñقकतिक्षกเ가ᄒ"
_MARKS = [chr(code) for code in range(0x300, 0x370)] + [
    "\u094d\u200d",
    "\u0e49",
    "\u11ab",
    "\u20e3",
]
_ODD = "\ufffd\ufeff\u2028\u2029\u200b\u00ad\u0000\u0007\x7f\u0085\ue000\uffff\U0010ffff\U0001f9ff"


def chinese(dice: random.Random) -> str:
    return "".join(
        dice.choice(_HAN_MARKS) if dice.random() < 0.1 else chr(dice.choice(_HAN))
        for _ in range(dice.randint(1, 14))
    )


def arabic(dice: random.Random) -> str:
    return "".join(
        dice.choice(_ARABIC_MARKS if dice.random() < 0.35 else _ARABIC)
        for _ in range(dice.randint(1, 20))
    )


def emoji(dice: random.Random) -> str:
    """Families, professions, skins, flags and keycaps; joiners make one sign of several."""

    def one() -> str:
        kind = dice.randrange(4)
        if kind == 0:
            return "".join(chr(0x1F1E6 + dice.randrange(26)) for _ in range(2))
        if kind == 1:
            return dice.choice("0123456789#*") + "\ufe0f\u20e3"
        members = [dice.choice(_PEOPLE) + dice.choice(_SKINS) for _ in range(dice.randint(1, 4))]
        return _JOINER.join([*members, *([dice.choice(_OBJECTS)] if kind == 2 else [])])

    return "".join(one() for _ in range(dice.randint(1, 4)))


def combining(dice: random.Random) -> str:
    """Base characters with marks, in no normal form; some decomposed words."""
    text = "".join(
        dice.choice(_BASES) + "".join(dice.choice(_MARKS) for _ in range(dice.randint(0, 4)))
        for _ in range(dice.randint(1, 7))
    )
    return text + unicodedata.normalize("NFD", dice.choice(["Ångström", "한국어", "Việt", "naïve"]))


def anything(dice: random.Random) -> str:
    """Any characters at all, and some that programs like to lose."""

    def one() -> str:
        if dice.random() < 0.3:
            return dice.choice(_ODD)
        code = dice.choice([dice.randrange(0x80), dice.randrange(0x3000), dice.randrange(0x110000)])
        return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"

    return "".join(one() for _ in range(dice.randint(1, 14)))


KINDS: dict[str, Callable[[random.Random], str]] = {
    "chinese": chinese,
    "arabic": arabic,
    "emoji": emoji,
    "combining": combining,
    "anything": anything,
}


def texts(kind: str, number: int) -> list[str]:
    """`number` different texts of a kind, the same in every run."""
    dice = random.Random(kind)
    found: dict[str, None] = {}
    while len(found) < number:
        found[KINDS[kind](dice)] = None
    return list(found)


def lone_bytes(number: int) -> list[bytes]:
    """Bytes of which some are no text: characters begun, ended too late, overlong, surrogates."""
    dice = random.Random("bytes")
    found: dict[bytes, None] = {}
    while len(found) < number:
        text = chinese(dice)[:3].encode() + emoji(dice).encode()[:9] + b"plain"
        broken = bytearray(text)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(broken) + 1)
            broken[at:at] = dice.choice(
                [b"\xe4", b"\xf0\x9f", b"\x80", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe4\xbd"]
            )
        found[bytes(broken[: dice.randint(1, len(broken))])] = None
    return list(found)
