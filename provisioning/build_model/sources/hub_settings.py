"""What the environment says about the Hugging Face hub, read at the moment of use.

The names and defaults are huggingface_hub's own, so that a shell set up for it works here too.
"""

from __future__ import annotations

import os
from pathlib import Path

from provisioning.build_model.errors import SourceError

DEFAULT_REPO = "Qwen/Qwen2.5-0.5B-Instruct"
_TRUE = {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """HF_ENDPOINT or the hub itself, without a trailing slash; `SourceError` if it is no URL."""
    url = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise SourceError(
            f"HF_ENDPOINT = {url!r}: expected a URL with its scheme, such as https://hf-mirror.com"
        )
    return url


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids every request to the hub."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


def token() -> str | None:
    """HF_TOKEN, or the token that `hf auth login` stored, or None."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if value := os.environ.get(name, "").strip():
            return value
    path = Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token").expanduser()
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def cache_directory() -> Path:
    """Where huggingface_hub keeps what it downloaded (HF_HUB_CACHE)."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(name):
            return Path(os.path.expandvars(value)).expanduser()
    return _home() / "hub"


def _home() -> Path:
    if value := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(value)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "huggingface"
