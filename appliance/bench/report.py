"""From samples to the table on the terminal and the JSON document."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from appliance.bench.distribution import Distribution, distribution
from appliance.bench.measure import Measured, Sample
from appliance.bench.plan import Row

# name, width
_COLUMNS = (
    ("conc", 4),
    ("prompt", 6),
    ("kind", 9),
    ("ok", 4),
    ("fail", 4),
    ("in", 6),
    ("cached", 6),
    ("out", 6),
    ("TTFT p50", 8),
    ("p95", 8),
    ("ITL p50", 8),
    ("p95", 7),
    ("p99", 7),
    ("TPOT p50", 8),
    ("tok/s", 7),
    ("total", 7),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of the table. Times in ms; rates in tokens per second; the README has the formulas.

    Figures are over the answers that came whole; None where there is none, or the server does not
    tell. `stopped_early` counts answers that ended before the limit of tokens.
    """

    row: Row
    num_ok: int
    num_failed: int
    num_skipped: int
    num_stopped_early: int
    num_chunk_counted: int
    num_opened_connections: int
    errors: dict[str, int]
    prompt_tokens: Distribution | None
    cached_tokens: Distribution | None
    output_tokens: Distribution | None
    ttft_ms: Distribution | None
    itl_ms: Distribution | None
    tpot_ms: Distribution | None
    tokens_per_s: Distribution | None
    total_tokens_per_s: float | None


def summarize(measured: Measured, max_tokens: int) -> list[Summary]:
    """One summary per row, in the order in which they were measured."""
    rows = dict.fromkeys([*measured.busy_s, *measured.skipped])
    return [_summarize_row(row, measured, max_tokens) for row in rows]


def _summarize_row(row: Row, measured: Measured, max_tokens: int) -> Summary:
    replies = [sample.reply for sample in measured.samples if sample.row == row]
    ok = [reply for reply in replies if reply.error is None]
    num_tokens = sum(reply.num_tokens for reply in ok)
    return Summary(
        row=row,
        num_ok=len(ok),
        num_failed=len(replies) - len(ok),
        num_skipped=measured.skipped.get(row, 0),
        num_stopped_early=sum(reply.num_tokens < max_tokens for reply in ok),
        num_chunk_counted=sum(reply.counted_by == "chunks" for reply in ok),
        num_opened_connections=sum(reply.opened_connection for reply in replies),
        errors=dict(Counter(reply.error for reply in replies if reply.error is not None)),
        prompt_tokens=_told([reply.num_prompt_tokens for reply in ok]),
        cached_tokens=_told([reply.num_cached_tokens for reply in ok]),
        output_tokens=distribution([reply.num_tokens for reply in ok]),
        ttft_ms=distribution([reply.ttft_ms for reply in ok]),
        itl_ms=distribution([gap for reply in ok for gap in reply.gaps_ms]),
        tpot_ms=_told([reply.tpot_ms for reply in ok]),
        tokens_per_s=distribution([reply.tokens_per_s for reply in ok]),
        total_tokens_per_s=num_tokens / measured.busy_s[row] if num_tokens else None,
    )


def _told(values: list[Any]) -> Distribution | None:
    return distribution([value for value in values if value is not None])


def table(summaries: list[Summary]) -> Iterator[str]:
    """The lines of the table, units first."""
    yield (
        "TTFT, ITL, TPOT in ms; tok/s: of one stream (p50); total: of all; "
        "in, cached, out: tokens (mean)"
    )
    yield "  ".join(name.rjust(width) for name, width in _COLUMNS)
    for summary in summaries:
        cells = _cells(summary)
        yield "  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def _cells(summary: Summary) -> list[str]:
    ttft, itl, tpot = summary.ttft_ms, summary.itl_ms, summary.tpot_ms
    return [
        str(summary.row.concurrency),
        str(summary.row.prompt_tokens),
        summary.row.kind,
        str(summary.num_ok),
        str(summary.num_failed),
        *(
            _figure(sizes.mean if sizes else None)
            for sizes in (summary.prompt_tokens, summary.cached_tokens, summary.output_tokens)
        ),
        _figure(ttft.p50 if ttft else None),
        _figure(ttft.p95 if ttft else None),
        _figure(itl.p50 if itl else None),
        _figure(itl.p95 if itl else None),
        _figure(itl.p99 if itl else None),
        _figure(tpot.p50 if tpot else None),
        _figure(summary.tokens_per_s.p50 if summary.tokens_per_s else None),
        _figure(summary.total_tokens_per_s),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def remarks(measured: Measured, summaries: list[Summary], max_tokens: int) -> Iterator[str]:
    """What must be known to read the table right; one line each."""
    if not measured.calibration.measured:
        yield "The server reports no usage: prompt sizes are a guess."
    if any(summary.num_chunk_counted for summary in summaries):
        yield "Output tokens are content chunks, which may hold several tokens each: no usage came."
    if failed := [reply.error for reply in measured.warm_up if reply.error]:
        yield f"{len(failed)} of {len(measured.warm_up)} warm-up requests failed: {failed[0]}"
    for summary in summaries:
        where = f"{summary.row.concurrency} x {summary.row.prompt_tokens} {summary.row.kind}"
        if summary.num_stopped_early:
            yield (
                f"{where}: {summary.num_stopped_early} of {summary.num_ok} answers ended before "
                f"{max_tokens} tokens."
            )
        if summary.num_opened_connections:
            yield f"{where}: {summary.num_opened_connections} requests had to connect first."
        for error, count in summary.errors.items():
            yield f"{where}: FAILED {count} times: {error}"
        if summary.num_skipped:
            yield f"{where}: {summary.num_skipped} not sent, as the first request had failed."


def as_json(sample: Sample) -> dict[str, Any]:
    """A raw sample, times rounded to a microsecond; the text of the answer stays out."""
    reply = dataclasses.asdict(sample.reply)
    del reply["text"]
    reply["chunk_ms"] = [round(at_ms, 3) for at_ms in sample.reply.chunk_ms]
    reply["end_ms"] = round(sample.reply.end_ms, 3)
    return {
        **sample.row._asdict(),
        "conversation": sample.conversation,
        "start_s": round(sample.start_s, 6),
        **reply,
    }
