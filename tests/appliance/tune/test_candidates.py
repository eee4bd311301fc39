"""What is tried on which CPU."""

from __future__ import annotations

import pytest

from appliance.backends.create import compile_options
from appliance.backends.kv_precision import KVPrecision
from appliance.config import EngineConfig
from appliance.model_dir import Architecture
from appliance.tune.candidates import (
    Candidate,
    Cpu,
    chunk_candidates,
    property_candidates,
    this_cpu,
    untouched,
)

QWEN = Architecture("qwen2", 151936, 32768, num_layers=24, num_kv_heads=2, head_dim=64)
N100 = Cpu(4, smt=False, bf16=False)


def names(cpu: Cpu = N100, kv_precision: KVPrecision = "u8", **engine: int) -> list[str]:
    default = compile_options(EngineConfig(**engine))  # type: ignore[arg-type]
    return [one.name for one in property_candidates(default, kv_precision, cpu, QWEN)]


def test_the_most_valuable_first() -> None:
    assert names() == ["group 64", "group 256", "group 32", "3 threads", "kv f16"]


def test_a_cpu_with_bfloat16_can_do_without() -> None:
    assert names(Cpu(4, smt=False, bf16=True)) == [
        "group 64",
        "group 256",
        "group 32",
        "inference f32",
        "3 threads",
        "kv f16",
        "inference bf16",
    ]


@pytest.mark.parametrize(
    ("cpu", "threads"),
    [
        (Cpu(1, smt=False, bf16=False), []),
        (Cpu(2, smt=False, bf16=False), []),
        (Cpu(4, smt=True, bf16=False), ["4 threads"]),
        (Cpu(8, smt=True, bf16=False), ["8 threads", "3 threads"]),
    ],
)
def test_threads_depend_on_cores(cpu: Cpu, threads: list[str]) -> None:
    assert [name for name in names(cpu) if "threads" in name] == threads


def test_what_is_the_default_is_not_tried() -> None:
    assert "group 64" not in names(dynamic_quantization_group_size=64)
    assert [name for name in names(kv_precision="f16") if "kv" in name] == ["kv u8"]


def test_the_kv_cache_s_memory_is_named() -> None:
    default = compile_options(EngineConfig())
    for precision, factor, words in [
        ("u8", 2, "12.3 KB of KV a token instead of 6.1"),
        ("f16", 0.5, "6.1 KB of KV a token instead of 12.3"),
    ]:
        (kv,) = [
            one for one in property_candidates(default, precision, N100, QWEN) if "kv" in one.name
        ]
        assert (kv.memory_factor, kv.memory) == (factor, words)


def test_chunks() -> None:
    assert [one.name for one in chunk_candidates(128)] == ["chunk 64", "chunk 256"]
    (only,) = chunk_candidates(64)
    assert (only.changes, only.memory_factor) == ({"prefill_chunk": 256}, 4)


def test_what_somebody_set_is_left_alone() -> None:
    default = compile_options(EngineConfig())
    candidates = property_candidates(default, "u8", N100, QWEN)
    chosen = {"engine.num_threads", "engine.dynamic_quantization_group_size"}
    open_ones, closed = untouched(candidates, chosen.__contains__)
    assert [one.name for one in open_ones] == ["kv f16"]
    assert closed == ["engine.dynamic_quantization_group_size", "engine.num_threads"]


def test_a_candidate_is_the_default_with_its_changes() -> None:
    base = EngineConfig(max_waiting=3)
    group = Candidate("group 64", {"dynamic_quantization_group_size": 64})
    kv = Candidate("kv f16", {"kv_cache_precision": "f16"}, 2, "much")
    assert group.config(base) == EngineConfig(max_waiting=3, dynamic_quantization_group_size=64)
    both = group + kv
    assert both == Candidate("group 64 + kv f16", {**group.changes, **kv.changes}, 2, "much")
    assert (kv + kv).memory == "much and much"


def test_this_cpu() -> None:
    assert this_cpu(frozenset({"INT8", "BF16"})).bf16
    cpu = this_cpu(frozenset({"INT8"}))
    assert not cpu.bf16 and cpu.num_cpus >= 1
