"""The Dockerfile's image at work: keys, a streamed chat, draining, CPUs, a model baked in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.model_dir import Manifest, read_manifest
from appliance.tune.host.cpu_list import parse_cpus
from tests.container.podman import Container, Podman

# The first one may have to build the image.
pytestmark = [pytest.mark.container, pytest.mark.model, pytest.mark.timeout(1200)]

CHAT = "/v1/chat/completions"
# What a careful user writes, and the README says.
LOCKED_DOWN = ("--cap-drop=ALL", "--security-opt=no-new-privileges")
READ_ONLY = ("--read-only", "--tmpfs=/tmp")
# What `docker stop` gives before it kills.
GRACE_S = 10.0


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Manifest:
    return read_manifest(model_dir)


def body(model: Manifest, max_tokens: int, **more: Any) -> dict[str, Any]:
    """A chat of that many tokens: the model cannot end it before."""
    return {
        "model": model.name,
        "messages": [{"role": "user", "content": "Count from 1 to 1000."}],
        "max_tokens": max_tokens,
        "logit_bias": {str(token): -100 for token in model.eos_token_ids},
        **more,
    }


def events(answer: Any) -> Iterator[str]:
    """What follows `data: ` in a stream, as it comes."""
    for line in answer:
        if line.startswith(b"data: "):
            yield line[len(b"data: ") :].decode().strip()


def cpus_of_threads(pid: int) -> list[frozenset[int]]:
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    lists = [re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.M) for status in statuses]
    return [parse_cpus(found[1]) for found in lists if found]


def test_without_a_key_it_says_what_to_do(podman: Podman, image: str, model_dir: Path) -> None:
    code, said = podman.once(image, options=(f"-v={model_dir}:/model:ro",))
    assert code == 2
    (line,) = said.splitlines()
    assert "docker run --rm -v VOLUME:/data IMAGE key add NAME" in line
    assert "QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true" in line


def test_without_a_model_it_says_so(podman: Podman, image: str) -> None:
    code, said = podman.once(image, options=("-e=QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true",))
    assert code == 3
    assert "model directory /model" in said and len(said.splitlines()) == 1


def test_three_commands_to_a_streamed_chat_and_stop_drains(
    podman: Podman,
    image: str,
    volume: str,
    model_dir: Path,
    model: Manifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = f"-v={volume}:/data"
    code, said = podman.once(image, "key", "add", "me", options=(data, *LOCKED_DOWN, *READ_ONLY))
    assert code == 0
    key = said.splitlines()[0]
    assert key.startswith("sk-")

    options = (data, f"-v={model_dir}:/model:ro", "--cpuset-cpus=0", *LOCKED_DOWN)
    # Longer than `docker stop` gives by itself, as the README has it for long answers.
    options += (*READ_ONLY, "-e=QWEN_APPLIANCE_SERVER_SHUTDOWN_GRACE_S=60")
    began = time.monotonic()
    with Container(podman, image, *options) as container:
        assert not container.is_healthy()
        container.wait_until_healthy()
        with capsys.disabled():
            sys.stdout.write(f"\npodman run to healthy: {time.monotonic() - began:.1f} s\n")
        assert container.request("POST", CHAT, body(model, 4)).status == 401

        # Only where the cpuset lets it, and no more threads than that.
        assert "int8, 1 thread;" in container.logs()
        threads = cpus_of_threads(container.pid)
        assert len(threads) > 2 and set(threads) == {frozenset({0})}
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.M)
        assert re.search(r"^CapBnd:\s+0+$", status, re.M)

        answer = container.request("POST", CHAT, body(model, 100, stream=True), key)
        assert answer.status == 200
        pieces = events(answer)
        first = json.loads(next(pieces))
        assert first["choices"][0]["delta"]["content"]

        # Stopped in the middle of an answer, which goes on to its end.
        stopped: list[tuple[int, float]] = []
        stopping = threading.Thread(target=lambda: stopped.append(container.stop(70)))
        stopping.start()
        *rest, last, done = pieces
        stopping.join()
        assert (json.loads(last)["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
        assert len(rest) > 50
        assert stopped[0][0] == 0

        # Keys, known prefixes and compiled model are still there.
        container.start()
        container.wait_until_healthy()
        answer = container.request("POST", CHAT, body(model, 1), key)
        usage = json.loads(answer.read())["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0


def test_an_answer_too_long_for_the_grace_time_is_cut_and_its_client_told(
    podman: Podman, image: str, model_dir: Path, model: Manifest
) -> None:
    options = (
        *("-e=QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true", f"-v={model_dir}:/model:ro"),
        *(*LOCKED_DOWN, *READ_ONLY),
    )
    with Container(podman, image, *options) as container:
        container.wait_until_healthy()
        answer = container.request("POST", CHAT, body(model, 4000, stream=True))
        pieces = events(answer)
        assert "choices" in next(pieces)
        stopped: list[tuple[int, float]] = []
        stopping = threading.Thread(target=lambda: stopped.append(container.stop()))
        stopping.start()
        *_, last, done = pieces
        stopping.join()
        assert (json.loads(last)["error"]["code"], done) == ("not_ready", "[DONE]")
        code, took_s = stopped[0]
        assert code == 0 and took_s < GRACE_S


def test_it_can_be_stopped_while_it_begins(podman: Podman, image: str, model_dir: Path) -> None:
    """The first process of a container gets no signal that it has no handler for."""
    options = ("-e=QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true", f"-v={model_dir}:/model:ro")
    with Container(podman, image, *options) as container:
        time.sleep(1)
        code, took_s = container.stop()
        assert code in (0, 128 + 15) and took_s < GRACE_S


def test_a_model_baked_in_and_a_key_as_a_secret(
    podman: Podman, image_with_model: Manifest, model: Manifest, tmp_path: Path
) -> None:
    keys = tmp_path / "api-keys"
    command = (sys.executable, "-m", "appliance", "key", "add", "me", "--file", str(keys))
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    podman("secret", "create", "api-keys", str(keys))
    try:
        # podman 4.3 mounts no secret into a read-only container.
        options = ("--secret=api-keys", "--cpus=1", *LOCKED_DOWN)
        with Container(podman, image_with_model, *options) as container:
            container.wait_until_healthy()
            # Time for one CPU: one thread, wherever it runs.
            assert "int8, 1 thread;" in container.logs()
            assert container.request("GET", "/v1/models").status == 401
            answer = container.request("POST", CHAT, body(model, 4), key)
            assert json.loads(answer.read())["choices"][0]["message"]["content"]
            assert container.stop()[0] == 0
    finally:
        podman("secret", "rm", "api-keys")
