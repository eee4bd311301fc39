"""The table that a person reads after tuning."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from appliance.tune.calibration import Calibration, Trial
from appliance.tune.judge import ANSWER_TOKENS, MIN_MARGIN, PROMPT_TOKENS

_QUIET_MARGIN = 2 * MIN_MARGIN  # half of it is there when nothing disturbs
_HEADER = ("candidate", "decode ms", f"prefill {PROMPT_TOKENS} ms", "x default", "verdict")


def as_table(calibration: Calibration) -> Iterator[str]:
    """Lines: one a trial, what was not reached, what follows from it all."""
    rows = [_HEADER, *(_cells(trial) for trial in calibration.trials)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, *figures, verdict in rows:
        cells = [name.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        yield "  ".join([*cells, verdict]).rstrip()
    yield ""
    yield (
        f"x default: time of a turn, {PROMPT_TOKENS} prompt tokens and {ANSWER_TOKENS} answered; "
        "median over rounds in turns"
    )
    margins = [trial.margin for trial in calibration.trials if trial.margin is not None]
    if margins and statistics.median(margins) > _QUIET_MARGIN:
        yield f"the machine was not quiet (margins up to {max(margins):.0%}); tune again when it is"
    if calibration.not_reached:
        yield f"no time for: {', '.join(calibration.not_reached)}"
    costs = ", ".join(f"{n}: {cost:.2f}" for n, cost in calibration.verify_cost.items())
    yield (
        f"passes of several tokens, in decode steps: {costs}; "
        f"after one of another size {calibration.change_cost:+.2f}"
    )
    settings = ", ".join(calibration.settings_in_words().values())
    yield f"kept: {settings or 'the built-in defaults'}"


def _cells(trial: Trial) -> tuple[str, ...]:
    return (
        trial.name,
        _figure(trial.decode_ms, 2),
        _figure(trial.prefill_ms, 1),
        _figure(trial.ratio, 3),
        trial.verdict,
    )


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
