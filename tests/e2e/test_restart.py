"""A conversation is known after the service was restarted, and answered as if nothing had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.served_process import ServedProcess

QUESTION = "Name three rivers of Europe and say one sentence about each of them."


@pytest.mark.model
@pytest.mark.parametrize("kv_cache", ["stateful", "paged"])
def test_a_conversation_goes_on_after_a_restart(
    model_dir: Path, tmp_path: Path, kv_cache: str
) -> None:
    settings = (
        f"engine.kv_cache={kv_cache}",
        f"engine.saved_prefixes_dir={tmp_path / 'kv'}",
        # Exact arithmetic: then what was restored and what is computed answer alike.
        "engine.inference_precision=f32",
        "engine.dynamic_quantization_group_size=0",
        "engine.kv_cache_precision=f32",
        "engine.max_model_len=2048",
    )

    def ask() -> dict[str, Any]:
        with ServedProcess(model_dir, *settings, cache_dir=tmp_path / "cache") as served:
            body = served.body(QUESTION, max_tokens=24, temperature=0)
            answer = served.client.post("/v1/chat/completions", json=body)
            served.terminate()
            assert served.exit_code() == 0
        parsed: dict[str, Any] = answer.json()
        return parsed

    first, second = ask(), ask()
    num_prompt_tokens = first["usage"]["prompt_tokens"]
    # What the template begins with may be known from the warm-up.
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] < num_prompt_tokens - 10
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == num_prompt_tokens - 1
    assert second["choices"][0]["message"] == first["choices"][0]["message"]


@pytest.mark.model
def test_what_was_saved_before_a_kill_is_known(model_dir: Path, tmp_path: Path) -> None:
    settings = (
        f"engine.saved_prefixes_dir={tmp_path / 'kv'}",
        "engine.saved_prefixes_interval_s=1",
    )
    with ServedProcess(model_dir, *settings, cache_dir=tmp_path / "cache") as served:
        body = served.body(QUESTION, max_tokens=400, ignore_eos=True, stream=True)
        with served.client.stream("POST", "/v1/chat/completions", json=body) as stream:
            for _ in stream.iter_text():
                if (tmp_path / "kv" / "index.json").exists():
                    break
        served.process.kill()
    with ServedProcess(model_dir, *settings, cache_dir=tmp_path / "cache") as served:
        answer = served.client.post(
            "/v1/chat/completions", json=served.body(QUESTION, max_tokens=1)
        ).json()
    usage = answer["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
