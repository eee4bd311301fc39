"""What the process itself is and takes: build, state, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector

_STATUS_FILE = Path("/proc/self/status")


class ProcessMetrics:
    """Read when rendered; nothing is counted meanwhile.

    `statuses` are all that `current_status` may return.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        build: Mapping[str, str],
        statuses: tuple[str, ...],
        current_status: Callable[[], str],
    ) -> None:
        Info(
            "qwen_appliance_build",
            "What runs, always 1: version, model, precision, kv_cache, openvino_version",
            registry=registry,
        ).info(dict(build))
        status = Gauge(
            "qwen_appliance_status",
            "1 for the state the service is in, 0 for the others",
            ["status"],
            registry=registry,
        )
        for name in statuses:
            status.labels(name).set_function(partial(_is, name, current_status))
        ProcessCollector(registry=registry)
        Gauge(
            "qwen_appliance_process_anonymous_memory_bytes",
            "Memory that the kernel cannot drop; the mapped model is not in it",
            registry=registry,
        ).set_function(anonymous_memory_bytes)


def _is(name: str, current: Callable[[], str]) -> float:
    return float(current() == name)


def anonymous_memory_bytes() -> float:
    """`RssAnon` of this process (proc(5)), in bytes; NaN where the kernel does not tell."""
    for line in _STATUS_FILE.read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024.0
    return float("nan")
