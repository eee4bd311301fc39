"""OpenAI's own client for Node against the service: the tests of `node/`, one by one.

They run on the embedded model, and on services with fake backends: one that is told what to say,
and others that are full, loading, slow, dead, or ask for a key. The client and a Node that is new
enough for it come from npm as the lock has them.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from appliance.access.key_file import make_key, write_keys
from appliance.config import Config, EngineConfig, ServerConfig
from tests import tiny_model
from tests.box.image import kept
from tests.fakes import FakeRunner
from tests.served_process import ServedProcess
from tests.server import Served, wait_until

pytestmark = [pytest.mark.clients, pytest.mark.model, pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "node"
LOCK = HERE / "package-lock.json"
NPM_CI = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
TESTS = [
    (path.name, name)
    for path in sorted(HERE.glob("*.test.mjs"))
    for name in re.findall(r'^test\("(.*)", async', path.read_text(), re.MULTILINE)
]


@pytest.fixture(scope="module")
def modules() -> Path:
    """The directory `node_modules` that the lock says, kept outside the checkout."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm (apt-get install npm)")

    def install(directory: Path) -> None:
        directory.mkdir()
        for name in ("package.json", LOCK.name):
            shutil.copy(HERE / name, directory)
        done = subprocess.run(NPM_CI, cwd=directory, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr

    return kept("node", (LOCK.read_text(),), install) / "node_modules"


class _Control(BaseHTTPRequestHandler):
    """`POST /SERVICE/ACTION` with JSON: what the tests in JavaScript do to a service."""

    services: dict[str, Served]

    def do_POST(self) -> None:
        name, action = self.path.strip("/").split("/")
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            self._act(self.services[name], action, body)
        except AssertionError as error:
            self._reply(500, str(error))
        else:
            self._reply(200, "done")

    def _act(self, served: Served, action: str, body: Any) -> None:
        if action == "answer":
            served.answer_by(*body)
        elif action == "answer_forever":
            served.answer_forever()
        elif action == "hold":
            served.runner.gate.clear()
        elif action == "release":
            served.runner.gate.set()
        elif action == "until_open":
            wait_until(lambda: served.num_open == body)
        else:
            raise AssertionError(f"no such action: {action}")

    def _reply(self, status: int, text: str) -> None:
        data = json.dumps(text).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def services(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """All services run; the JSON that `service.mjs` reads."""
    directory = tmp_path_factory.mktemp("services")
    tiny = tiny_model.make(directory / "tiny")
    key, record = make_key("ann")
    write_keys(directory / "keys", [record])
    loading = FakeRunner()
    loading.gate.clear()
    one_seat = Config(engine=EngineConfig(max_waiting=0))
    with_key = Config(server=ServerConfig(api_keys_file=directory / "keys"))
    impatient = Config(engine=EngineConfig(request_timeout_s=0.2))
    made = {
        "told": Served(tiny, FakeRunner(max_model_len=8192)),
        "full": Served(tiny, FakeRunner(max_slots=1), one_seat),
        "keyed": Served(tiny, config=with_key),
        "limited": Served(tiny, config=Config(server=ServerConfig(requests_per_minute=1))),
        "dead": Served(tiny, FakeRunner(fail_after=2)),
        "slow": Served(tiny, FakeRunner(step_s=0.01), impatient),
        "loading": Served(tiny, loading, wait=False),
    }
    with ExitStack() as stack:
        real = stack.enter_context(ServedProcess(model_dir))
        for served in made.values():
            stack.enter_context(served).answer("hello")
        made["dead"].chat()
        handler = type("Control", (_Control,), {"services": made})
        control = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        thread = threading.Thread(target=control.serve_forever, args=(0.05,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(control.shutdown)
        yield json.dumps(
            {
                "urls": {"real": real.url} | {name: served.url for name, served in made.items()},
                "model": real.model,
                "key": key,
                "control": f"http://127.0.0.1:{control.server_port}",
            }
        )


@pytest.fixture(scope="module")
def outcomes(
    modules: Path, services: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], str | None]:
    """What is wrong with each test, or None: all files have run, one after the other."""
    directory = tmp_path_factory.mktemp("node")
    for path in HERE.glob("*.mjs"):
        shutil.copy(path, directory)
    (directory / "node_modules").symlink_to(modules)
    (node,) = modules.glob("node-linux-*/bin/node")
    options = ("--test", "--test-reporter=junit", "--test-concurrency=1", "--test-timeout=60000")
    done = subprocess.run(
        [node, *options, *sorted({file for file, _ in TESTS})],
        cwd=directory,
        env={"SERVICES": services, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stdout, done.stderr
    return {
        # The reporter escapes quotation marks twice.
        (Path(case.attrib["file"]).name, html.unescape(case.attrib["name"])): failure.text
        if (failure := case.find("failure")) is not None
        else None
        for case in ElementTree.fromstring(done.stdout).iter("testcase")
    }


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[f"{f}: {name}" for f, name in TESTS])
def test_node(outcomes: dict[tuple[str, str], str | None], file: str, name: str) -> None:
    assert (file, name) in outcomes, f"it did not run: {sorted(outcomes)}"
    if outcomes[file, name] is not None:
        pytest.fail(outcomes[file, name] or "", pytrace=False)


def test_all_that_ran_is_counted(outcomes: dict[tuple[str, str], str | None]) -> None:
    assert outcomes.keys() == set(TESTS) and len(TESTS) == len(set(TESTS))
