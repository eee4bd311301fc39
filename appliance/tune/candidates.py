"""What is worth trying on this CPU, most valuable first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.backends.compile_options import CompileOptions
from appliance.backends.kv_precision import BYTES_PER_VALUE, KVPrecision
from appliance.config import EngineConfig
from appliance.model_dir import Architecture
from appliance.tune.identity import num_usable_cpus

# A group of 0 (none) and one per row are two to three times slower in prefill on every CPU tried.
_GROUP_SIZES = (64, 256, 32)
_KV_PRECISIONS: tuple[KVPrecision, ...] = (
    "u8",
    "f16",
)  # f32 computes as f16 does, in twice the memory
_PREFILL_CHUNKS = (64, 256)
_SMT_ACTIVE = Path("/sys/devices/system/cpu/smt/active")


@dataclass(frozen=True, slots=True)
class Cpu:
    """`num_cpus` logical ones may be used; `smt`: two of them share a core."""

    num_cpus: int
    smt: bool
    bf16: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """One change of the default, or several: fields of `EngineConfig` with other values.

    `memory_factor` says how many times the memory is that `memory` names.
    """

    name: str
    changes: dict[str, Any]
    memory_factor: float = 1.0
    memory: str = ""

    def config(self, base: EngineConfig) -> EngineConfig:
        return dataclasses.replace(base, **self.changes)

    def __add__(self, other: Candidate) -> Candidate:
        return Candidate(
            f"{self.name} + {other.name}",
            {**self.changes, **other.changes},
            self.memory_factor * other.memory_factor,
            " and ".join(filter(None, (self.memory, other.memory))),
        )


def this_cpu(capabilities: frozenset[str]) -> Cpu:
    """`capabilities` are OpenVINO's words for what the CPU computes in."""
    try:
        smt = _SMT_ACTIVE.read_text().strip() == "1"
    except OSError:
        smt = False
    return Cpu(num_usable_cpus(), smt, bf16="BF16" in capabilities)


def property_candidates(
    default: CompileOptions, kv_precision: KVPrecision, cpu: Cpu, architecture: Architecture
) -> Iterator[Candidate]:
    """Changes of what the model is compiled with; each is loaded by itself.

    Those that are the same as `default` are left out; `kv_precision` is the one it comes to.
    """
    for size in _GROUP_SIZES:
        if size != default.dynamic_quantization_group_size:
            yield Candidate(f"group {size}", {"dynamic_quantization_group_size": size})
    if cpu.bf16:
        # The plugin's own choice is bfloat16 where the CPU has it, in most cases.
        yield Candidate("inference f32", {"inference_precision": "f32"})
    for num_threads in _thread_counts(cpu):
        yield Candidate(f"{num_threads} threads", {"num_threads": num_threads})
    yield from _kv_precisions(kv_precision, architecture)
    if cpu.bf16:
        yield Candidate("inference bf16", {"inference_precision": "bf16"})


def chunk_candidates(default: int) -> Iterator[Candidate]:
    """Changes of `engine.prefill_chunk`; they need no loading."""
    for chunk in _PREFILL_CHUNKS:
        if chunk != default:
            yield Candidate(
                f"chunk {chunk}",
                {"prefill_chunk": chunk},
                memory_factor=chunk / default,
                memory=f"buffers for {chunk} tokens instead of {default}",
            )


def untouched(
    candidates: Iterator[Candidate], is_set: Callable[[str], bool]
) -> tuple[list[Candidate], list[str]]:
    """Those whose settings nobody has set, and the dotted keys of the others' settings."""
    open_ones: list[Candidate] = []
    closed: list[str] = []
    for candidate in candidates:
        keys = [f"engine.{name}" for name in candidate.changes]
        if not any(map(is_set, keys)):
            open_ones.append(candidate)
        closed += [key for key in keys if is_set(key) and key not in closed]
    return open_ones, closed


def _thread_counts(cpu: Cpu) -> Iterator[int]:
    """OpenVINO's own choice is one thread per core."""
    if cpu.smt:
        yield cpu.num_cpus
    cores = cpu.num_cpus // 2 if cpu.smt else cpu.num_cpus
    if cores > 2:
        yield cores - 1  # leaves one to the rest of the machine; of two, none can be spared


def _kv_precisions(default: KVPrecision, architecture: Architecture) -> Iterator[Candidate]:
    values = 2 * architecture.num_layers * architecture.num_kv_heads * architecture.head_dim
    size = {name: values * of_one / 1000 for name, of_one in BYTES_PER_VALUE.items()}
    for precision in _KV_PRECISIONS:
        if precision != default:
            yield Candidate(
                f"kv {precision}",
                {"kv_cache_precision": precision},
                memory_factor=size[precision] / size[default],
                memory=f"{size[precision]:.1f} KB of KV a token instead of {size[default]:.1f}",
            )
