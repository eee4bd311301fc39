"""Builds the backend that the configuration names; the one place that knows all variants."""

from __future__ import annotations

from pathlib import Path

from appliance.backends.base import Backend
from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.block_pool import BLOCK_SIZE
from appliance.backends.compile_options import CompileOptions, default_cache_dir
from appliance.backends.cpu_quota import threads_within_quota
from appliance.backends.kv_precision import copy_precision, kv_precision
from appliance.backends.saved_prefixes import restored_prefixes
from appliance.config import EngineConfig
from appliance.errors import ConfigError
from appliance.heap import bound_heap
from appliance.model_dir import Manifest

# A longer window than this is rarely wanted on such a box, and its KV would fill the memory.
_DEFAULT_MAX_MODEL_LEN = 8192
# Measured, see the README beside this file.
_DYNAMIC_QUANTIZATION_GROUP_SIZE = 128
# 18,000 tokens of a 0.5B model in 8 bits: eight conversations of 1,000, and as much that is known.
_DEFAULT_PREFIX_CACHE_MB = 128


def create_backend(config: EngineConfig, model_dir: Path, manifest: Manifest) -> Backend:
    """Load the model and build the variant `config.kv_cache`; takes seconds.

    Raises `ConfigError` for a setting the model cannot meet, `ModelDirError`, `BackendError`.
    """
    bound_heap()
    create = {"stateful": _create_stateful, "paged": _create_paged}[config.kv_cache]
    return create(config, model_dir, manifest)


# OpenVINO is imported in the functions: it takes a quarter of a second, and a process that only
# checks its configuration, or runs on a fake, does not need it.


def _create_stateful(config: EngineConfig, model_dir: Path, manifest: Manifest) -> Backend:
    max_model_len = _max_model_len(config, manifest)
    from appliance.backends.loader import num_threads
    from appliance.backends.stateful.host_blocks import HostBlocks, KVShape
    from appliance.backends.stateful.model import compile_stateful
    from appliance.backends.stateful.runner import StatefulRunner

    model = manifest.architecture
    shape = KVShape(2 * model.num_layers, model.num_kv_heads, model.head_dim)
    precision = copy_precision(config)
    block_bytes = HostBlocks.block_bytes(shape, precision)
    kv = _block_kv_cache(
        config, "prefix_cache_mb", config.prefix_cache_mb, max_model_len, block_bytes
    )
    host = HostBlocks(kv.num_blocks, shape, precision)
    compiled = compile_stateful(model_dir, compile_options(config))
    runner = StatefulRunner(
        compiled,
        kv,
        host,
        max_slots=config.max_num_seqs,
        max_model_len=max_model_len,
        vocab_size=model.vocab_size,
    )
    return Backend(
        kv,
        runner,
        description=_description("stateful", manifest, num_threads(compiled)),
        prefixes=restored_prefixes(config, manifest, kv, host.arrays),
    )


def _create_paged(config: EngineConfig, model_dir: Path, manifest: Manifest) -> Backend:
    max_model_len = _max_model_len(config, manifest)
    from appliance.backends.loader import num_threads
    from appliance.backends.paged.model import block_bytes, compile_paged
    from appliance.backends.paged.runner import PagedRunner

    compiled = compile_paged(model_dir, compile_options(config))
    kv = _block_kv_cache(
        config, "kv_cache_mb", config.kv_cache_mb, max_model_len, block_bytes(compiled)
    )
    runner = PagedRunner(
        compiled,
        kv,
        max_slots=config.max_num_seqs,
        max_model_len=max_model_len,
        vocab_size=manifest.architecture.vocab_size,
    )
    return Backend(
        kv,
        runner,
        description=_description("paged", manifest, num_threads(compiled)),
        prefixes=restored_prefixes(config, manifest, kv, runner.arrays),
    )


def _block_kv_cache(
    config: EngineConfig,
    setting: str,
    megabytes: int | None,
    max_model_len: int,
    bytes_per_block: int,
) -> BlockKVCache:
    """As many blocks as fit `megabytes`; at least one sequence of full length must."""
    needed = -(-max_model_len // BLOCK_SIZE)
    if megabytes is None:
        num_blocks = max(_DEFAULT_PREFIX_CACHE_MB * 1_000_000 // bytes_per_block, needed)
    else:
        num_blocks = megabytes * 1_000_000 // bytes_per_block
    if num_blocks < needed:
        raise ConfigError(
            f"engine.{setting}",
            megabytes,
            f"one sequence of {max_model_len} tokens (engine.max_model_len) takes "
            f"{needed * bytes_per_block / 1e6:.0f}",
        )
    return BlockKVCache(
        num_blocks=num_blocks,
        max_slots=config.max_num_seqs,
        max_model_len=max_model_len,
        bytes_per_block=bytes_per_block,
    )


def compile_options(config: EngineConfig) -> CompileOptions:
    """The OpenVINO properties that `config` stands for, its open choices made."""
    group_size = config.dynamic_quantization_group_size
    return CompileOptions(
        num_threads=config.num_threads or threads_within_quota(),
        dynamic_quantization_group_size=(
            _DYNAMIC_QUANTIZATION_GROUP_SIZE if group_size is None else group_size
        ),
        inference_precision=_unless_auto(config.inference_precision),
        kv_cache_precision=kv_precision(config),
        cache_dir=config.compile_cache_dir or default_cache_dir(),
    )


def _max_model_len(config: EngineConfig, manifest: Manifest) -> int:
    of_model = manifest.architecture.max_model_len
    if config.max_model_len is None:
        return min(of_model, _DEFAULT_MAX_MODEL_LEN)
    if config.max_model_len > of_model:
        raise ConfigError(
            "engine.max_model_len", config.max_model_len, f"this model's context is {of_model}"
        )
    return config.max_model_len


def _description(variant: str, manifest: Manifest, num_threads: int) -> str:
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    return f"{variant} KV cache, {manifest.weights.precision}, {threads}"


def _unless_auto(precision: str) -> str | None:
    return None if precision == "auto" else precision
