"""The command line of the bench. An empty value is the default, since make hands on what it has."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


def parse(bars: Sequence[str], peers: Sequence[str], variants: Sequence[str]) -> argparse.Namespace:
    """The arguments, lists checked against what there is; exits with 2 for a wrong one."""
    parser = argparse.ArgumentParser(
        prog="make bench MODEL=DIR [NAME=VALUE ...]",
        description="Every bar on this machine. Variables of make are these options in capitals.",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="model directory")
    add("--gguf", type=_path, metavar="FILE", help="the same weights, for llama.cpp")
    add(
        "--checkpoint",
        type=_path,
        metavar="DIR",
        help="the same weights as a Hugging Face checkout",
    )
    for name, known in (("only", bars), ("kv", variants), ("peers", peers)):
        told = f"some of {', '.join(known)}; default: all"
        add(f"--{name}", type=_some_of(known), default=tuple(known), metavar="A,B", help=told)
    add(
        "--set",
        type=_settings,
        default={},
        metavar='"KEY=VALUE ..."',
        help="settings of this project's sides, such as engine.inference_precision=f32",
    )
    add("--repeats", type=float, default=1.0, metavar="SHARE", help="fewer repeats; default: 1")
    add("--quick", dest="repeats", action="store_const", const=0.5, help="half the repeats")
    add("--json", type=_path, metavar="FILE", help="everything that was measured")
    add("--seed", type=int, default=None, help="of the prompts; default: another one each time")
    return parser.parse_args()


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _settings(text: str) -> dict[str, str]:
    settings = {}
    for pair in text.split():
        key, equals, value = pair.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{pair!r} is not KEY=VALUE")
        settings[key] = value
    return settings


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of `a,b`: those of `known` that are named, all when none is."""

    def parse_names(text: str) -> tuple[str, ...]:
        given = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := [name for name in given if name not in known]:
            expected = ", ".join(known)
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; expected {expected}")
        return tuple(name for name in known if name in given) or tuple(known)

    return parse_names
