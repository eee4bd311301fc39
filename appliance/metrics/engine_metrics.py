"""What the engine counts: sequences, tokens, steps, KV."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from appliance.metrics import buckets

FINISH_REASONS = ("stop", "length", "abort", "error")
PHASES = ("prefill", "decode", "mixed")


class EngineMetrics:
    """Written by the engine thread, read by whoever renders the registry.

    Every observation costs a microsecond and holds a lock for as long. Children of labels are made
    here, once: looking one up takes longer than counting, and a reason that has not occurred yet
    shows as 0.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._define_sequences(registry)
        self._define_tokens(registry)
        self._define_steps(registry)
        self._define_kv(registry)

    def _define_sequences(self, registry: CollectorRegistry) -> None:
        self.running = Gauge(
            "qwen_appliance_sequences_running",
            "Sequences that have a seat in the backend",
            registry=registry,
        )
        self.waiting = Gauge(
            "qwen_appliance_sequences_waiting",
            "Sequences in the queue, preempted ones included",
            registry=registry,
        )
        finished = Counter(
            "qwen_appliance_sequences_finished_total",
            "Sequences that ended, by reason: stop, length, abort, error",
            ["reason"],
            registry=registry,
        )
        self.finished = {reason: finished.labels(reason) for reason in FINISH_REASONS}
        self.preemptions = Counter(
            "qwen_appliance_preemptions_total",
            "Times a running sequence's KV was taken back for an older one",
            registry=registry,
        )
        self.queue_time = Histogram(
            "qwen_appliance_sequence_queue_time_seconds",
            "From submission to the begin of the first step that computed a part of the prompt",
            buckets=buckets.REQUEST_S,
            registry=registry,
        )
        self.prefill_time = Histogram(
            "qwen_appliance_sequence_prefill_time_seconds",
            "From the begin of the first step for a prompt to the first token of the answer",
            buckets=buckets.FIRST_TOKEN_S,
            registry=registry,
        )

    def _define_tokens(self, registry: CollectorRegistry) -> None:
        self.inter_token_latency = Histogram(
            "qwen_appliance_inter_token_latency_seconds",
            "Gaps between the tokens of a sequence; 0 for tokens that one step gave together",
            buckets=buckets.TOKEN_S,
            registry=registry,
        )
        self.prompt_tokens = _counter(
            registry, "prompt_tokens", "Prompt tokens of sequences that began"
        )
        self.cached_prompt_tokens = _counter(
            registry, "cached_prompt_tokens", "Prompt tokens whose KV was known and not computed"
        )
        self.prefill_tokens = _counter(
            registry,
            "prefill_tokens",
            "Tokens computed in prefill, those after a preemption included",
        )
        self.generation_tokens = _counter(registry, "generation_tokens", "Tokens of answers")
        self.draft_tokens = _counter(registry, "draft_tokens", "Tokens proposed by prompt lookup")
        self.accepted_draft_tokens = _counter(
            registry, "accepted_draft_tokens", "Proposed tokens that became part of the answer"
        )
        self.prompt_length = Histogram(
            "qwen_appliance_sequence_prompt_tokens",
            "Length of the prompt of a finished sequence",
            buckets=buckets.TOKENS,
            registry=registry,
        )
        self.answer_length = Histogram(
            "qwen_appliance_sequence_generation_tokens",
            "Length of the answer of a finished sequence",
            buckets=buckets.TOKENS,
            registry=registry,
        )

    def _define_steps(self, registry: CollectorRegistry) -> None:
        duration = Histogram(
            "qwen_appliance_engine_step_duration_seconds",
            "One step: schedule, forward, sample; phase: prefill, decode, mixed",
            ["phase"],
            buckets=buckets.TOKEN_S,
            registry=registry,
        )
        self.step_duration = {phase: duration.labels(phase) for phase in PHASES}

    def _define_kv(self, registry: CollectorRegistry) -> None:
        self.kv_bytes = Gauge(
            "qwen_appliance_kv_bytes",
            "Memory that KV takes, by kind; at most a second old",
            ["kind"],
            registry=registry,
        )
        self.kv_tokens = Gauge(
            "qwen_appliance_kv_tokens",
            "Tokens whose KV is held, known prefixes included; at most a second old",
            registry=registry,
        )


def _counter(registry: CollectorRegistry, name: str, meaning: str) -> Counter:
    return Counter(f"qwen_appliance_{name}_total", meaning, registry=registry)
