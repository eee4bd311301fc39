"""Anonymous memory of the service: eight streams of 1,000 tokens with the prefix cache full, and
how much it grows over 2,000 mixed requests."""

from __future__ import annotations

from tests.benchmarks.harness.comparison import Comparison, Limit, Row
from tests.benchmarks.harness.fleet import UnavailableError
from tests.benchmarks.harness.lab import Lab
from tests.benchmarks.harness.worker import Request, Worker, WorkerError, request
from tests.benchmarks.peers import ours

_PEAK_MB = Limit("<=", 950)
_GROWTH_PERCENT = Limit("<=", 2)
_STREAMS = 8
_STREAM_PROMPT, _STREAM_ANSWER = 872, 128
_FILL_PROMPTS = 6
_FILL_TOKENS = 1000
_MAX_FILLS = 12
_FULL_BELOW = 0.01
_MIXED = 2000
_MIXED_AT_ONCE = 100
_CLIENTS = 8


def measure(lab: Lab) -> list[Row]:
    """Two rows. Measured is the service, tokenizer and HTTP included."""
    peaks: dict[str, Comparison | None] = {}
    growths: dict[str, Comparison | None] = {}
    for variant in lab.variants:
        name = ours.served(variant)
        lab.fleet.stop(name)  # a process without a past
        try:
            peak, growth = _peak_and_growth(lab, lab.fleet.worker(name))
        except WorkerError as error:
            lab.fleet.give_up(name, str(error))
        except UnavailableError:
            pass  # said already
        else:
            peaks[variant] = Comparison((peak,))
            growths[variant] = Comparison((growth,))
        finally:
            lab.fleet.stop(name)
    mixed = lab.repeats(_MIXED)
    return [
        lab.alone("anonymous memory, 8 x 1,000 tokens, prefixes full", "MB", _PEAK_MB, "", peaks),
        lab.alone(f"growth over {mixed:,} mixed requests", "%", _GROWTH_PERCENT, "", growths),
    ]


def _peak_and_growth(lab: Lab, worker: Worker) -> tuple[float, float]:
    """Megabytes, and percent."""
    _fill_prefix_cache(lab, worker)
    streams = [request(lab.prompts.fresh(_STREAM_PROMPT), _STREAM_ANSWER) for _ in range(_STREAMS)]
    watched = worker.call("watched", requests=streams, clients=_STREAMS)
    before = worker.anonymous_bytes()
    for _ in range(lab.repeats(_MIXED) // _MIXED_AT_ONCE):
        worker.call("watched", requests=_mixed(lab), clients=_CLIENTS)
    after = worker.anonymous_bytes()
    return watched["peak_bytes"] / 1e6, (after - before) / before * 100


def _fill_prefix_cache(lab: Lab, worker: Worker) -> None:
    """Long prompts until memory stops growing: then every further prefix takes another's place."""
    held = worker.anonymous_bytes()
    for _ in range(_MAX_FILLS):
        prompts = [lab.prompts.fresh(_FILL_TOKENS) for _ in range(_FILL_PROMPTS)]
        worker.generate_many([request(prompt, 2) for prompt in prompts], clients=1)
        held, held_before = worker.anonymous_bytes(), held
        if held - held_before < _FULL_BELOW * held_before:
            return


def _mixed(lab: Lab) -> list[Request]:
    """New prompts, known ones, and some whose reader goes away."""
    known = lab.prompts.many(5, 16, 48)
    requests = []
    for number in range(_MIXED_AT_ONCE):
        prompt = known[number % 5] if number % 3 == 0 else lab.prompts.many(1, 8, 48)[0]
        more = {"abort_after": 2} if number % 10 == 9 else {}
        requests.append(request(prompt, 2 + number % 4, **more))
    return requests
