"""From a model directory to an engine that has answered one real token."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from appliance import __version__
from appliance.backends.base import Backend
from appliance.backends.create import create_backend
from appliance.chat.completer import Completer
from appliance.chat.template import ChatTemplate
from appliance.chat.tokenizer import Tokenizer
from appliance.config import Config
from appliance.engine.engine import Engine
from appliance.engine.sampling_params import SamplingParams
from appliance.errors import BackendError, ModelDirError
from appliance.heap import trim_heap
from appliance.metrics import Metrics
from appliance.model_dir import CHAT_TEMPLATE, Manifest

_log = logging.getLogger(__name__)
_WARM_UP_TOKENS = 2
_WARM_UP_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gives, with the seconds each part took; the parts overlap."""

    backend: Backend
    tokenizer: Tokenizer
    template: ChatTemplate
    backend_s: float
    tokenizer_s: float


def load(config: Config, manifest: Manifest, backend: Backend | None = None) -> Loaded:
    """Read everything the service needs; blocks for up to some seconds, so call it in a thread.

    Tokenizer and IR are read side by side. `backend` replaces the configured one.
    Raises `ModelDirError`, `BackendError`, `ConfigError`.
    """
    model_dir = config.model.dir
    assert model_dir is not None
    with ThreadPoolExecutor(1) as pool:
        started = time.perf_counter()
        reading = pool.submit(lambda: (Tokenizer(model_dir), time.perf_counter() - started))
        built = backend or create_backend(config.engine, model_dir, manifest)
        backend_s = time.perf_counter() - started
        tokenizer, tokenizer_s = reading.result()
    try:
        text = (model_dir / CHAT_TEMPLATE).read_text(encoding="utf-8")
        template = ChatTemplate(text, tokenizer.special_tokens(manifest))
    except (OSError, ValueError) as error:
        raise ModelDirError(model_dir, f"{CHAT_TEMPLATE} cannot be read: {error}") from error
    return Loaded(built, tokenizer, template, backend_s, tokenizer_s)


async def warm_up(engine: Engine, manifest: Manifest) -> float:
    """Let the model answer its golden prompt's first tokens; returns the seconds it took.

    The first pass after compiling repacks the weights, which no client should wait for. Raises
    `BackendError` when no token comes.
    """
    started = time.perf_counter()
    golden = manifest.golden
    params = SamplingParams(max_tokens=_WARM_UP_TOKENS, temperature=0)
    generation = engine.submit(golden.prompt_ids, params, timeout_s=_WARM_UP_TIMEOUT_S)
    answered: list[int] = []
    async for output in generation.outputs():
        answered.extend(output.token_ids)
    if not answered:
        raise BackendError("the model answered no token to its golden prompt")
    if tuple(answered) != golden.greedy_ids[: len(answered)]:
        # Not fatal: another CPU may round a near tie the other way.
        _log.warning("the golden prompt's answer differs from the manifest's on this CPU")
    # Of reading tokenizer and IR, much is left that nobody needs any more.
    trim_heap()
    return time.perf_counter() - started


def create_completer(
    loaded: Loaded, engine: Engine, config: Config, manifest: Manifest, metrics: Metrics
) -> Completer:
    """The completer for a loaded model."""
    return Completer(
        engine,
        loaded.tokenizer,
        loaded.template,
        eos_token_ids=manifest.eos_token_ids,
        generation=config.generation,
        model_defaults=manifest.generation_defaults,
        timeout_s=config.engine.request_timeout_s,
        tool_call_format=manifest.tool_call_format,
        gen_ai=metrics.gen_ai,
    )


def build_info(config: Config, manifest: Manifest, model_name: str) -> dict[str, str]:
    """What runs here, in words that tell two installations apart."""
    return {
        "version": __version__,
        "model": model_name,
        "precision": manifest.weights.precision,
        "kv_cache": config.engine.kv_cache,
        "openvino_version": importlib.metadata.version("openvino"),
    }


def system_fingerprint(manifest: Manifest) -> str:
    """Names the weights and what they were made with; the same seed answers the same under it."""
    digest = hashlib.sha256("".join(f.sha256 for f in manifest.files.values()).encode())
    return f"fp_{digest.hexdigest()[:10]}"
