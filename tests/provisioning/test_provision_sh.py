"""`provision.sh`: what it hands on to Ansible, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = """\
#!/usr/bin/env bash
printf '%s\\n' "$@" >"$(dirname "$0")/../../called"
"""


@dataclass(frozen=True)
class Checkout:
    root: Path

    def provision(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "provisioning" / "provision.sh", *arguments],
            env={"PATH": os.environ["PATH"], "PYTHON": sys.executable},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def called(self) -> list[str] | None:
        """Ansible's arguments, if it was called."""
        path = self.root / "called"
        return path.read_text().splitlines() if path.exists() else None

    def variables(self) -> dict[str, Any]:
        called = self.called()
        assert called is not None
        return json.loads(called[called.index("-e") + 1])

    def asked(self) -> dict[str, Any]:
        """What is handed on of the `-e` of this run and of those before; it wins."""
        called = self.called()
        assert called is not None
        return json.loads([called[n + 1] for n, one in enumerate(called) if one == "-e"][1])


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "check out"
    (root / "provisioning").mkdir(parents=True)
    for name in ("provision.sh", "python.sh", "remembered.py"):
        shutil.copy(ROOT / "provisioning" / name, root / "provisioning")
    # Nothing that a provisioned machine has is to be seen from here.
    script = root / "provisioning" / "provision.sh"
    text = script.read_text().replace("/var/lib/qwen-appliance", f"{tmp_path}/state")
    script.write_text(text.replace("settings=/etc/qwen-appliance", f"settings={tmp_path}"))
    (root / "provisioning" / "venvs.py").write_text("")
    ansible = root / ".venv-provision" / "bin" / "ansible-playbook"
    ansible.parent.mkdir(parents=True)
    ansible.write_text(ANSIBLE)
    ansible.chmod(0o755)
    python = ansible.with_name("python")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return Checkout(root)


@pytest.fixture
def with_bundles(checkout: Checkout) -> Checkout:
    """What goes on in bundle/ says how it was called."""
    bundle = checkout.root / "provisioning" / "bundle"
    bundle.mkdir()
    (bundle / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\n")
    return checkout


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def serve(checkout: Checkout, name: str) -> Path:
    """Let this machine serve a model called so."""
    state = checkout.root.parent / "state"
    model = state / "models" / name
    model.mkdir(parents=True)
    (model / "manifest.json").write_text("{}")
    (state / "provisioned.json").write_text(json.dumps({"model": name}))
    return model


@pytest.mark.usefixtures("as_root")
def test_it_runs_the_playbook_of_fleets_for_this_machine(checkout: Checkout) -> None:
    run = checkout.provision("--source", "gguf:/my models/a.gguf", "-e", "qwen_appliance_port=81")
    assert run.returncode == 0, run.stderr
    called = checkout.called()
    assert called is not None and called[1].endswith("/provisioning/this-machine.yml")
    assert called[2].endswith("/provisioning/playbook.yml") and "--check" not in called
    assert checkout.asked() == {"qwen_appliance_port": "81"}
    variables = checkout.variables()
    assert variables["qwen_appliance_model_source"] == "gguf:/my models/a.gguf"
    assert variables["qwen_appliance_state"] == "present"
    assert "qwen_appliance_model_dir" not in variables


@pytest.mark.usefixtures("as_root")
def test_the_model_that_is_served_stays_unless_one_is_named(checkout: Checkout) -> None:
    model = serve(checkout, "Old")
    run = checkout.provision("--check")
    assert "model: Old stays" in run.stdout
    assert checkout.variables()["qwen_appliance_model_dir"] == str(model)
    assert "--check" in (checkout.called() or [])
    for named in (["--source=hf:A/B"], ["-e", "qwen_appliance_model_source=hf:A/B"]):
        assert checkout.provision(*named).stdout == ""
        assert "qwen_appliance_model_dir" not in checkout.variables()
    (model / "manifest.json").unlink()
    run = checkout.provision()
    assert run.returncode == 2 and "Old, is gone; name one" in run.stderr


@pytest.mark.usefixtures("as_root")
def test_later_runs_remember_what_was_asked_for(checkout: Checkout, tmp_path: Path) -> None:
    file = tmp_path / "file.yml"
    file.write_text("qwen_appliance_port: 81\nqwen_appliance_wheels: /w\n")
    checkout.provision("-e", "qwen_appliance_host=0.0.0.0", "--check")
    assert not (tmp_path / "provision.json").exists()
    checkout.provision("-e", "qwen_appliance_host=0.0.0.0", "-e", f"@{file}")
    assert checkout.asked()["qwen_appliance_wheels"] == "/w"
    checkout.provision("-e", '{"qwen_appliance_config": {"a": "b c"}, "qwen_appliance_port": 82}')
    wanted = {
        "qwen_appliance_host": "0.0.0.0",
        "qwen_appliance_port": 82,
        "qwen_appliance_config": {"a": "b c"},
    }
    assert checkout.asked() == wanted
    kept = tmp_path / "provision.json"
    assert json.loads(kept.read_text()) == wanted and kept.stat().st_mode & 0o777 == 0o600
    # What failed is not worth it.
    ansible = checkout.root / ".venv-provision/bin/ansible-playbook"
    ansible.write_text(ANSIBLE + "exit 2\n")
    assert checkout.provision("-e", "qwen_appliance_port=83").returncode == 2
    assert json.loads(kept.read_text()) == wanted
    refused = checkout.provision("-e", "@/nowhere")
    assert refused.returncode == 2 and "No such file" in refused.stderr


@pytest.mark.usefixtures("as_root")
def test_uninstalling_keeps_models_when_told(checkout: Checkout) -> None:
    serve(checkout, "Old")
    for options, kept in ((["--uninstall"], False), (["--uninstall", "--keep-models"], True)):
        assert checkout.provision(*options).returncode == 0
        assert checkout.variables()["qwen_appliance_state"] == "absent"
        assert checkout.variables()["qwen_appliance_keep_models"] is kept


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--chek"], "unknown option --chek"),
        (["now"], "unknown option now"),
        (["--source"], "--source needs a value"),
        (["--source", "Qwen"], "expected hf:"),
        (["--model-dir", "/nowhere"], "no manifest.json there"),
        (["--source", "hf:A/B", "--model-dir", "/"], "not both"),
        (["-e", "port"], "expected KEY=VALUE, a JSON object or @FILE"),
        (["--keep-models"], "belongs to --uninstall"),
        (["--uninstall", "--source", "hf:A/B"], "takes no model"),
    ],
)
def test_what_it_cannot_do_is_one_line(checkout: Checkout, arguments: list[str], told: str) -> None:
    run = checkout.provision(*arguments)
    assert run.returncode == 2 and run.stderr.startswith("provision: ")
    assert told in run.stderr and run.stderr.count("\n") == 1
    assert checkout.called() is None


def test_help_names_every_option_and_needs_no_root(checkout: Checkout) -> None:
    run = checkout.provision("--help")
    assert run.returncode == 0
    for option in ("--check", "--source", "--model-dir", "-e", "--uninstall", "--keep-models"):
        assert option in run.stdout


def test_bundles_are_made_without_root_of_what_is_named(with_bundles: Checkout) -> None:
    made = with_bundles.provision("--bundle-python", "3.13", "--make-bundle=a b.tar")
    assert made.stdout == "['make', 'a b.tar', '--bundle-python', '3.13']\n"
    refused = with_bundles.provision("--make-bundle")
    assert refused.returncode == 2 and "--make-bundle needs a value" in refused.stderr


@pytest.mark.usefixtures("as_root")
def test_a_bundle_gets_all_other_options(with_bundles: Checkout) -> None:
    ended = with_bundles.provision("--check", "--from-bundle", "b.tar", "-e", "x=y z")
    assert ended.stdout == "['provision', 'b.tar', '--check', '-e', 'x=y z']\n"
    assert with_bundles.called() is None
