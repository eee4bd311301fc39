"""The tables on the terminal and the JSON file."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.bench.machine import this_machine
from tests.benchmarks.bars.side_by_side import Standing
from tests.benchmarks.harness.comparison import Comparison, Row
from tests.benchmarks.harness.fleet import Fleet

JSON_FORMAT = 1


def bars_table(rows: Sequence[Row], variants: Sequence[str]) -> list[str]:
    """A line per row: each variant's figure, the peer's, each variant's ratio with its spread, what
    it must reach, and the verdict."""
    header = ["bar", *variants, "beside", "its figure"]
    header += [f"ratio {variant}" for variant in variants] + ["must reach", "verdict"]
    lines = [header, *(_cells(row, variants) for row in rows)]
    return [*_aligned(lines, left={0, 1 + len(variants), len(header) - 1}), *_remarks(rows)]


def _cells(row: Row, variants: Sequence[str]) -> list[str]:
    compared = [row.ours.get(variant) for variant in variants]
    figures = [_number(one.our_figure) if one else "-" for one in compared]
    theirs = next((one.their_figure for one in compared if one), None)
    ratios = [_ratio(one) if one else "-" for one in compared]
    peer = [row.peer, _number(theirs) if theirs is not None else ""]
    return [_label(row), *figures, *peer, *ratios, str(row.limit), _verdict(row, variants)]


def _label(row: Row) -> str:
    """The bar with the unit of its figures."""
    return f"{row.bar}, {row.unit}" if row.unit else row.bar


def _ratio(comparison: Comparison) -> str:
    if comparison.theirs is None:
        return _number(comparison.ratio)
    low, high = comparison.spread
    return f"{comparison.ratio:.2f} ({low:.2f}-{high:.2f})"


def _verdict(row: Row, variants: Sequence[str]) -> str:
    """One word when all variants agree."""
    verdicts = {v: row.verdicts[v] for v in variants if v in row.verdicts}
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    return ", ".join(f"{variant} {verdict}" for variant, verdict in verdicts.items())


def _remarks(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row.note:
            yield f"{_label(row)}: {row.note}"
        for reason in dict.fromkeys(row.missing.values()):
            yield f"{_label(row)}: not measured: {reason}"


def standings_table(standings: Sequence[Standing]) -> list[str]:
    """Everybody side by side."""
    header = ["side by side", "runs", "TTFT new 41", "repeated", "new 512", "ms/token"]
    header += ["8 rows tok/s", "anonymous MB", "version"]
    lines = [header]
    for one in standings:
        figures = (one.ttft_new_41_ms, one.ttft_repeated_ms, one.ttft_new_512_ms, one.per_token_ms)
        of_8 = "-" if one.tokens_per_s_of_8 is None else _number(one.tokens_per_s_of_8)
        memory = f"{one.anonymous_mb:.0f}"
        lines.append([one.name, one.runs, *map(_number, figures), of_8, memory, one.version])
    return list(_aligned(lines, left={0, 1, 8}))


def summary(rows: Sequence[Row]) -> str:
    """How many bars one variant reaches."""
    passed = sum(row.passed for row in rows)
    unmeasured = sum(not row.ours for row in rows)
    short = len(rows) - passed - unmeasured
    return (
        f"{passed} rows pass in at least one variant, {short} fall short, {unmeasured} unmeasured"
    )


def all_tables(
    rows: Sequence[Row], standings: Sequence[Standing], variants: Sequence[str], fleet: Fleet
) -> Iterator[str]:
    """Both tables, how each side ran, and who could not be measured and why."""
    if rows:
        yield ""
        yield from bars_table(rows, variants)
    if standings:
        yield ""
        yield from standings_table(standings)
    yield ""
    for name, version in fleet.versions.items():
        yield f"{name}: {fleet.sides[name].runs}, {version}"
    for name, reason in fleet.unavailable.items():
        yield f"{name}: not measured: {reason}"


def write_json(
    path: Path,
    rows: Sequence[Row],
    standings: Sequence[Standing],
    fleet: Fleet,
    about: Mapping[str, Any],
) -> None:
    """Everything that was measured, round by round."""
    document = {
        "format": JSON_FORMAT,
        **about,
        "machine": dataclasses.asdict(this_machine()),
        "python": platform.python_version(),
        "versions": fleet.versions,
        "unavailable": fleet.unavailable,
        "bars": [_row_json(row) for row in rows],
        "side_by_side": [dataclasses.asdict(one) for one in standings],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _row_json(row: Row) -> dict[str, Any]:
    variants = {
        name: {"ratio": one.ratio, "ours": one.ours, "theirs": one.theirs}
        for name, one in row.ours.items()
    }
    return {
        "bar": row.bar,
        "unit": row.unit,
        "must_reach": str(row.limit),
        "beside": row.peer,
        "variants": variants,
        "verdicts": row.verdicts,
        "missing": dict(row.missing),
        "note": row.note,
    }


def _number(value: float) -> str:
    """Three figures or so: 0.98, 18.0, 181."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _aligned(lines: Sequence[Sequence[str]], *, left: set[int]) -> Iterator[str]:
    """Columns as wide as their widest cell; those in `left` begin at their left edge."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        padded = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()
