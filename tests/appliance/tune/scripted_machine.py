"""A machine on which every set of settings takes the time it was told to, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from appliance.backends.kv_precision import KVPrecision
from appliance.config import EngineConfig
from appliance.errors import BackendError
from appliance.tune.candidates import Cpu
from appliance.tune.contestant import NUM_DECODE_STEPS, PASS_SIZES
from appliance.tune.drafts import PassTimes
from appliance.tune.judge import TurnTimes
from appliance.tune.session import Machine

Speed = tuple[float, float]
"""Milliseconds of a decode step and of a prefill of 128 tokens."""


@dataclass
class ScriptedMachine:
    """`speed` gives what a configuration takes, `load_s` what loading it takes.

    `noise` are factors that rounds are multiplied with, one after the other: a busy machine.
    `logits` gives the golden answer's; `broken` configurations cannot be loaded.
    """

    speed: Callable[[EngineConfig], Speed] = lambda config: (30.0, 200.0)
    load_s: float = 1.0
    noise: Iterator[float] = field(default_factory=lambda: cycle([1.0]))
    logits: Callable[[EngineConfig], NDArray[np.float32]] = lambda config: np.eye(
        4, 10, dtype=np.float32
    )
    broken: Callable[[EngineConfig], bool] = lambda config: False
    now: float = 1000.0
    loaded: list[EngineConfig] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0
    rounds: list[EngineConfig] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def load(self, config: EngineConfig) -> ScriptedContestant:
        self.loaded.append(config)
        self.now += self.load_s
        if self.broken(config):
            raise BackendError("OpenVINO cannot compile it: told not to")
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        return ScriptedContestant(self, config)

    def as_machine(self, cpu: Cpu | None = None, kv_precision: KVPrecision = "u8") -> Machine:
        return Machine(cpu or Cpu(4, smt=False, bf16=False), kv_precision, self.load)


class ScriptedContestant:
    """One configuration on it."""

    def __init__(self, machine: ScriptedMachine, config: EngineConfig) -> None:
        self._machine = machine
        self._config = config
        self._closed = False

    def answer_logits(
        self, prompt_ids: tuple[int, ...], answer_ids: tuple[int, ...]
    ) -> NDArray[np.float32]:
        assert not self._closed
        return self._machine.logits(self._config)

    def time_turn(self) -> TurnTimes:
        assert not self._closed
        self._machine.rounds.append(self._config)
        factor = next(self._machine.noise)
        decode, prefill = (factor * one for one in self._machine.speed(self._config))
        self._machine.now += (prefill + NUM_DECODE_STEPS * decode) / 1000
        return TurnTimes(decode, prefill)

    def time_passes(self) -> PassTimes:
        assert not self._closed
        decode, prefill = self._machine.speed(self._config)
        steady = {size: decode * (0.9 + size / 10) for size in PASS_SIZES}
        changed = {size: took + decode / 2 for size, took in steady.items()}
        self._machine.now += (prefill + sum(steady.values()) + sum(changed.values())) / 1000
        return PassTimes(changed, steady)

    def time_prefill(self, num_tokens: int, chunk: int) -> float:
        assert not self._closed
        _, prefill = self._machine.speed(self._config)
        # Every pass costs 20 ms on top.
        took = prefill * num_tokens / 128 + 20 * num_tokens / chunk
        self._machine.now += took / 1000
        return took

    def close(self) -> None:
        assert not self._closed
        self._closed = True
        self._machine.num_open -= 1
