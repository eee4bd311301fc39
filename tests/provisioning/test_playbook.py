"""The playbook and its roles, as text: what they say of themselves is true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "provisioning"
BOX = PROVISIONING / "roles" / "box"
VARIABLE = re.compile(r"\bqwen_appliance_(?!gateway_)\w+(?![\w.])")
KEYWORDS = {
    *("name", "when", "vars", "loop", "loop_control", "register", "changed_when", "failed_when"),
    *("check_mode", "delegate_to", "become", "no_log", "diff", "environment", "throttle"),
    *("until", "retries", "delay", "block", "rescue", "notify", "ignore_unreachable"),
    *("delegate_facts", "hosts", "gather_facts", "serial", "max_fail_percentage"),
    *("any_errors_fatal", "tasks"),
}


def specs() -> dict[str, Any]:
    return yaml.safe_load((BOX / "meta/argument_specs.yml").read_text())["argument_specs"]


def options() -> dict[str, Any]:
    """Of all entry points."""
    return {name: told for spec in specs().values() for name, told in spec["options"].items()}


def defaults() -> dict[str, Any]:
    return yaml.safe_load((BOX / "defaults/main.yml").read_text())


def steps(value: Any) -> Iterator[dict[str, Any]]:
    """Plays, blocks and tasks, however deep."""
    if isinstance(value, list):
        for one in value:
            yield from steps(one)
    elif isinstance(value, dict):
        yield value
        for key in ("tasks", "block", "rescue"):
            yield from steps(value.get(key))


def test_the_playbook_can_be_run() -> None:
    path = f"{ROOT / '.venv-provision' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = shutil.which("ansible-playbook", path=path)
    if command is None:
        pytest.skip("no ansible-playbook: ./tests/run.sh makes .venv-provision")
    for inventory in ("inventory.example.yml", "this-machine.yml"):
        ended = subprocess.run(
            [command, "--list-tasks", "--list-hosts", "-i", inventory, "playbook.yml"],
            cwd=PROVISIONING,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert ("box-2" in ended.stdout) is (inventory == "inventory.example.yml")


def test_every_variable_that_is_used_is_specified_and_told() -> None:
    used = set()
    for path in BOX.rglob("*.yml"):
        used |= set(VARIABLE.findall(path.read_text()))
    known = set(options())
    # Files and directories are named after the project, too.
    not_variables = {"qwen_appliance_fact"}
    assert used - not_variables == known == set(defaults())
    readme = (BOX / "README.md").read_text()
    told = set(re.findall(r"`(\w+)`", readme))
    assert {name.removeprefix("qwen_appliance_") for name in known} <= told


def test_specified_defaults_are_the_defaults() -> None:
    for name, value in defaults().items():
        if name != "qwen_appliance_key_file":  # the inventory's directory, or none
            assert options()[name]["default"] == value, name


def test_every_entry_point_is_specified() -> None:
    playbook = (PROVISIONING / "playbook.yml").read_text()
    entered = set(re.findall(r"name: box\n +tasks_from: (\w+)", playbook))
    assert entered == {"prepare", "converge", "uninstall"} == set(specs()) - {"main"}
    assert all((BOX / "tasks" / f"{name}.yml").is_file() for name in specs())


def test_the_example_inventory_sets_what_there_is() -> None:
    text = (PROVISIONING / "inventory.example.yml").read_text()
    children = yaml.safe_load(text)["all"]["children"]
    assert set(children) == {"boxes", "gateways"}
    named = set(VARIABLE.findall(text))
    assert named <= set(defaults())


def test_only_modules_that_come_with_ansible() -> None:
    files = [PROVISIONING / "playbook.yml", *PROVISIONING.glob("roles/*/tasks/*.yml")]
    for path in files:
        for step in steps(yaml.safe_load(path.read_text())):
            modules = set(step) - KEYWORDS
            assert all(name.startswith("ansible.builtin.") for name in modules), (path, modules)
            assert step.get("name"), (path, step)
