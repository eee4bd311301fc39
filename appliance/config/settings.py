"""Every setting, declared once: type, default, range, choices, help.

A setting is an annotated field: the type says what may stand there (`Literal` lists the choices,
`| None` allows null), `Rule` carries the help sentence and the range. To add one, add one field
here and run `qwen-appliance config --example > provisioning/config.example.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from appliance.config.fields import Rule


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the service listens, and how it treats connections."""

    host: Annotated[
        str, Rule("address to listen on; 0.0.0.0 is every IPv4 interface", option="--host")
    ] = "127.0.0.1"
    port: Annotated[
        int, Rule("TCP port; 0 takes any free one", ge=0, le=65535, option="--port")
    ] = 8000
    api_keys_file: Annotated[
        Path | None,
        Rule(
            "who may come in: names and hashes of API keys, as `qwen-appliance key` writes them; "
            "null: systemd's credential `api-keys`, or $XDG_CONFIG_HOME/qwen-appliance/api-keys or "
            "~/.config/qwen-appliance/api-keys, whichever is there; otherwise no key is asked for"
        ),
    ] = None
    allow_no_key: Annotated[
        bool, Rule("serve beyond this machine without any key, to everybody who can reach it")
    ] = False
    requests_per_minute: Annotated[
        int | None,
        Rule(
            "most requests of one API key in a minute, all at once or spread; more are answered "
            "with 429; null: as many as come",
            ge=1,
            le=100000,
        ),
    ] = None
    cors_origins: Annotated[
        tuple[str, ...],
        Rule(
            "web pages of other origins that browsers let call this service, such as "
            "http://localhost:3000; * is every origin"
        ),
    ] = ()
    max_body_bytes: Annotated[
        int, Rule("largest request body; a larger one is answered with 413", ge=1024)
    ] = 4194304
    max_messages: Annotated[int, Rule("most messages of one conversation", ge=1, le=100000)] = 2048
    header_timeout_s: Annotated[
        float, Rule("longest that a request's headers may take to arrive", gt=0, le=3600)
    ] = 10.0
    idle_timeout_s: Annotated[
        float,
        Rule(
            "longest silence of a client: between two requests, within a body, or while it does "
            "not read its answer; then its connection is closed",
            gt=0,
            le=3600,
        ),
    ] = 75.0
    shutdown_grace_s: Annotated[
        float, Rule("how long running answers may finish after SIGTERM", ge=0, le=600)
    ] = 30.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Rule("least severe message that is logged")
    ] = "info"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model directory is served, and under which name."""

    dir: Annotated[
        Path | None,
        Rule("model directory, as provisioning/build-model.sh writes it", option="--model"),
    ] = None
    name: Annotated[str | None, Rule("served model id; null: the name in the model's manifest")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How tokens are computed, and how many requests share the machine."""

    kv_cache: Annotated[
        Literal["stateful", "paged"],
        Rule("where the KV cache lives: in OpenVINO's state, or in blocks for paged attention"),
    ] = "stateful"
    prefix_cache_mb: Annotated[
        int | None,
        Rule(
            "stateful: memory for copies of running and known texts' KV, beside the state; null: "
            "128, or what one sequence of full length takes",
            ge=1,
            le=1048576,
        ),
    ] = None
    kv_cache_mb: Annotated[
        int, Rule("paged: memory for the KV cache, known prefixes included", ge=1, le=1048576)
    ] = 256
    max_num_seqs: Annotated[int, Rule("most sequences computed at once", ge=1, le=64)] = 8
    max_model_len: Annotated[
        int | None,
        Rule(
            "context window in tokens; null: the model's own, but at most 8192", ge=16, le=1048576
        ),
    ] = None
    prefill_chunk: Annotated[
        int,
        Rule(
            "most prompt tokens computed in one step; more is no faster and takes memory",
            ge=16,
            le=8192,
        ),
    ] = 128
    prefill_chunk_busy: Annotated[
        int | None,
        Rule(
            "most prompt tokens computed in one step while answers stream; null: 32 where they "
            "share the step, 64 where they take turns",
            ge=1,
            le=8192,
        ),
    ] = None
    prompt_lookup: Annotated[
        bool,
        Rule("guess tokens from what the conversation says already, check several in one step"),
    ] = True
    max_draft_tokens: Annotated[
        int, Rule("most guessed tokens of one sequence that a step checks", ge=1, le=32)
    ] = 7
    max_waiting: Annotated[
        int, Rule("requests that may wait; more are answered with 429", ge=0, le=10000)
    ] = 64
    request_timeout_s: Annotated[
        float, Rule("longest a request may wait and run", ge=1, le=86400)
    ] = 600.0
    num_threads: Annotated[int, Rule("inference threads; 0: as the CPUs allow", ge=0, le=256)] = 0
    dynamic_quantization_group_size: Annotated[
        int | None,
        Rule("group size of the activations' INT8; null: the backend's choice", ge=0, le=4096),
    ] = None
    inference_precision: Annotated[
        Literal["auto", "f32", "bf16"], Rule("arithmetic of the forward pass")
    ] = "auto"
    kv_cache_precision: Annotated[
        Literal["auto", "u8", "f16", "f32"], Rule("how keys and values are stored")
    ] = "auto"
    compile_cache_dir: Annotated[
        Path | None,
        Rule(
            "where OpenVINO keeps compiled models; null: $XDG_CACHE_HOME/qwen-appliance or "
            "~/.cache/qwen-appliance; an unusable directory only costs start-up time"
        ),
    ] = None
    saved_prefixes_dir: Annotated[
        Path | None,
        Rule(
            "where known prefixes are kept for the next start, prompts and answers of users among "
            "them; null: $STATE_DIRECTORY, as systemd sets it, otherwise nowhere"
        ),
    ] = None
    saved_prefixes_mb: Annotated[
        int, Rule("disk for saved prefixes; 0: none are saved", ge=0, le=1048576)
    ] = 64
    saved_prefixes_interval_s: Annotated[
        float, Rule("how often new prefixes are saved; and always at the end", ge=1, le=86400)
    ] = 300.0
    calibration_file: Annotated[
        Path | None,
        Rule(
            "what `qwen-appliance tune engine` measured, used for settings that nobody set; null: "
            "calibration-MODEL-VARIANT.json in the compile cache's directory"
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What a request gets that does not ask; null: the defaults in the model's manifest."""

    default_max_tokens: Annotated[
        int, Rule("most tokens of an answer when the request gives no max_tokens", ge=1)
    ] = 512
    max_tokens_ceiling: Annotated[
        int, Rule("most tokens of an answer that a request may ask for", ge=1)
    ] = 4096
    temperature: Annotated[
        float | None, Rule("randomness of sampling; 0 is greedy", ge=0, le=2)
    ] = None
    top_p: Annotated[
        float | None, Rule("sample from the likeliest tokens of this total probability", gt=0, le=1)
    ] = None
    top_k: Annotated[
        int | None, Rule("sample from this many likeliest tokens; 0: from all", ge=0)
    ] = None
    min_p: Annotated[
        float | None,
        Rule("drop tokens less likely than this share of the likeliest one", ge=0, le=1),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        Rule("above 1: tokens that were there become less likely; 1: off", ge=0.01, le=10),
    ] = None
    grammar_timeout_s: Annotated[
        float,
        Rule("longest that a schema or grammar may take to compile; else 400", gt=0, le=600),
    ] = 10.0


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; every value in it has been checked."""

    server: ServerConfig = field(default_factory=ServerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
