"""The README's table names every metric there is, and the text is what Prometheus reads."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from appliance import metrics as metrics_package
from appliance.metrics import Metrics

README = Path(metrics_package.__file__).with_name("README.md")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(
        model="tiny",
        build={"version": "1", "model": "tiny", "kv_cache": "paged"},
        statuses=("loading", "ready"),
        current_status=lambda: "ready",
    )
    made.http.responded("/v1/models", 200)
    made.http.expect_reasons({"queue_full"})
    made.engine.kv_bytes.labels("kv").set(1)
    return made


def rows(metrics: Metrics) -> Iterator[str]:
    """The table, as it must stand in the README; to renew it, print these."""
    for family in sorted(metrics.registry.collect(), key=lambda family: family.name):
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if family.type == "info":
            labels = set()
        named = ", ".join(f"`{label}`" for label in sorted(labels))
        yield f"| `{name}` | {family.type} | {named} | {family.documentation.rstrip('.')} |"


def test_the_readme_holds_the_table(metrics: Metrics) -> None:
    block = re.search(
        r"<!-- metrics -->\n(.*?)<!-- /metrics -->", README.read_text(encoding="utf-8"), re.S
    )
    assert block is not None
    assert block[1].strip().splitlines()[2:] == list(rows(metrics))


def test_the_queries_name_metrics_that_exist(metrics: Metrics) -> None:
    queries = re.findall(r"```promql\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert queries
    used = set(re.findall(r"\b(?:gen_ai|qwen_appliance|process)_\w+", "".join(queries)))
    exported = {
        sample.name for family in families(metrics.render()[0]) for sample in family.samples
    }
    labels = {
        label
        for family in metrics.registry.collect()
        for sample in family.samples
        for label in sample.labels
    }
    assert used - exported - labels == set()


def families(text: bytes) -> list[Metric]:
    return list(text_string_to_metric_families(text.decode()))


def test_prometheus_text_can_be_parsed(metrics: Metrics) -> None:
    text, content_type = metrics.render()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    parsed = families(text)
    assert {family.name for family in parsed} == {
        family.name for family in metrics.registry.collect()
    } - {"qwen_appliance_build"} | {"qwen_appliance_build_info"}
    assert all(family.documentation and family.type != "untyped" for family in parsed)


def test_openmetrics_can_be_parsed_by_who_asks_for_it(metrics: Metrics) -> None:
    text, content_type = metrics.render(OPENMETRICS)
    assert content_type.startswith(OPENMETRICS)
    parsed = {
        family.name for family in openmetrics_parser.text_string_to_metric_families(text.decode())
    }
    assert parsed == {family.name for family in metrics.registry.collect()}


def test_what_people_warn_about_is_a_bucket_s_bound(metrics: Metrics) -> None:
    bounds = {
        family.name: {s.labels["le"] for s in family.samples if "le" in s.labels}
        for family in metrics.registry.collect()
        if family.type == "histogram"
    }
    assert {"0.005", "0.1", "2.0", "60.0"} <= bounds["gen_ai_server_time_to_first_token_seconds"]
    assert {"0.005", "0.03"} <= bounds["gen_ai_server_time_per_output_token_seconds"]
    assert {"0.005", "0.03"} <= bounds["qwen_appliance_inter_token_latency_seconds"]
    assert {"60.0", "600.0"} <= bounds["gen_ai_server_request_duration_seconds"]


def test_two_services_in_one_process_do_not_count_together(metrics: Metrics) -> None:
    other = Metrics(model="b", build={}, statuses=("ready",), current_status=lambda: "ready")
    other.engine.generation_tokens.inc(5)
    assert b"qwen_appliance_generation_tokens_total 0.0" in metrics.render()[0]
    assert b"qwen_appliance_generation_tokens_total 5.0" in other.render()[0]


# Of a process of its own: this one's other threads take and free memory at any time.
TAKES_50_MB = """
import mmap
from appliance.metrics.process_metrics import anonymous_memory_bytes

taken = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
before = anonymous_memory_bytes()
for page in range(0, len(taken), mmap.PAGESIZE):
    taken[page] = 1
print(anonymous_memory_bytes() - before)
"""


def test_anonymous_memory_grows_with_what_is_taken() -> None:
    told = subprocess.run(
        [sys.executable, "-c", TAKES_50_MB], capture_output=True, check=True, text=True
    )
    assert 49e6 < float(told.stdout) < 55e6
