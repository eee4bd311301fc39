"""Whether the service that runs now does what it should: ready, right, fast enough, nothing wrong.

Asked over HTTP like any client; an API key comes in `$VERIFY_API_KEY`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.model_dir import Golden, read_manifest

KEY_VARIABLE = "VERIFY_API_KEY"
_EVERY_S = 0.25
_ATTEMPTS = 8
_TOO_MANY_REQUESTS = 429
_REQUESTS, _PROMPT_TOKENS, _MAX_TOKENS = 5, 64, 32
_NOT_TEXT = "\N{REPLACEMENT CHARACTER}"


class VerificationError(ValueError):
    """The service is not as it should be; the text says what."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a chat's next turn may take to its first token, and each further token; ms, median."""

    ttft_ms: float
    itl_ms: float


def verify(
    url: str, model_dir: Path, budget: Budget, *, measure: bool, timeout_s: float
) -> dict[str, Any]:
    """`{"model", "ttft_ms", "ms_per_token", "over_budget": [...], "problems": [...]}`.

    Figures are None unless `measure`. Raises `VerificationError` when it does not get ready, or
    answers the golden prompt otherwise than the manifest says.
    """
    service = _Service(url)
    service.wait_until_ready(timeout_s)
    manifest = read_manifest(model_dir)
    model = service.ask("/v1/models")["data"][0]["id"]
    _check_golden(service, model, manifest.golden, frozenset(manifest.eos_token_ids))
    told: dict[str, Any] = {"model": model, "ttft_ms": None, "ms_per_token": None}
    told["over_budget"] = []
    measured = _measure(url) if measure and not service.key_has_a_limit else None
    if measure and measured is None:
        told["over_budget"].append("not measured: server.requests_per_minute is too low for it")
    elif measured is not None:
        told["ttft_ms"], told["ms_per_token"] = measured
        for name, found, most in (
            ("first token of a next turn", told["ttft_ms"], budget.ttft_ms),
            ("each further token", told["ms_per_token"], budget.itl_ms),
        ):
            if found > most:
                told["over_budget"].append(f"{name}: {found:.1f} ms, budget {most:g} ms")
    told["problems"] = _problems()
    return told


class _Service:
    """The service by HTTP. Raises `VerificationError`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.key_has_a_limit = False

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to a request, which is sent again when its key has had enough for now."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)  # noqa: S310 - http
        for attempt in range(_ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - http
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code == _TOO_MANY_REQUESTS and attempt < _ATTEMPTS - 1:
                    self.key_has_a_limit = True
                    time.sleep(min(float(error.headers["Retry-After"] or 1), 60.0))
                    continue
                text = error.read(500).decode("utf-8", "replace")
                raise VerificationError(f"{path} answers {error.code}: {text}") from None
            except OSError as error:
                raise VerificationError(f"{self._url}{path}: {error}") from None
        raise AssertionError("the last attempt ends it")

    def wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.ask("/health/ready")
                return
            except VerificationError as error:
                if time.monotonic() > deadline:
                    raise VerificationError(f"not ready after {timeout_s:g} s: {error}") from None
            time.sleep(_EVERY_S)


def _check_golden(service: _Service, model: str, golden: Golden, eos_ids: frozenset[int]) -> None:
    """Greedy decoding here must give the ids that it gave where the model was built."""
    expected = [
        service.ask("/v1/detokenize", {"tokens": [one]})["prompt"]
        for one in golden.greedy_ids
        if one not in eos_ids
    ]
    answer = service.ask(
        "/v1/completions",
        {
            "model": model,
            "prompt": list(golden.prompt_ids),
            "max_tokens": len(golden.greedy_ids),
            "temperature": 0,
            "repetition_penalty": 1,
            "logprobs": 0,
        },
    )
    answered = answer["choices"][0]["logprobs"]["tokens"][: len(expected)]
    if len(answered) != len(expected) or not all(map(_is_same, answered, expected)):
        raise VerificationError(
            f"the golden prompt is answered with {answered}, where the manifest has {expected}: "
            "this box computes otherwise than it should, or this is another model"
        )


def _is_same(answered: str, expected: str) -> bool:
    # A part of a character has no text: one endpoint writes its bytes, the other a substitute.
    return answered == expected or (_NOT_TEXT in expected and "\\x" in answered)


def _measure(url: str) -> tuple[float, float] | None:
    """Medians in ms: first token of a next turn, each token after it. None: too many requests."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "bench.json")
        key = os.environ.get(KEY_VARIABLE)
        ended = subprocess.run(
            [
                *(_command(), "bench", "--base-url", url, "--json", str(file), "--seed", "1"),
                *("--requests", str(_REQUESTS), "--prompt-tokens", str(_PROMPT_TOKENS)),
                *("--max-tokens", str(_MAX_TOKENS), "--kinds", "next-turn"),
            ],
            env={**os.environ, **({"OPENAI_API_KEY": key} if key else {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode and f"{_TOO_MANY_REQUESTS}" in ended.stdout + ended.stderr:
            return None
        if ended.returncode:
            raise VerificationError(f"bench: {(ended.stdout + ended.stderr)[-1000:].strip()}")
        summaries = json.loads(file.read_text(encoding="utf-8"))["summaries"]
    next_turn = next(one for one in summaries if one["row"]["kind"] == "next-turn")
    return round(next_turn["ttft_ms"]["p50"], 1), round(next_turn["tpot_ms"]["p50"], 1)


def _problems() -> list[str]:
    """What the doctor would have put right; it is no reason to take an upgrade back."""
    ended = subprocess.run(
        [_command(), "doctor", "--json", "--no-measure", "--no-checksums"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        findings = json.loads(ended.stdout)["findings"]
    except ValueError:
        return [f"doctor failed: {ended.stderr[-500:].strip()}"]
    return [f"{one['text']} -> {one['remedy']}" for one in findings if one["level"] == "problem"]


def _command() -> str:
    return os.path.join(sys.prefix, "bin", "qwen-appliance")
