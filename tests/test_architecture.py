"""Who may import whom, and the rules that keep files readable, checked on the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for package in ("appliance", "provisioning")
    for path in (ROOT / package).rglob("*.py")
)
MAX_LINES = 230
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# What each part of the service may import of the rest of it; its own modules always. The longest
# pattern that fits a file counts.
MAY_IMPORT = {
    "appliance/errors.py": set(),
    "appliance/metrics/*": {"metrics"},
    "appliance/heap.py": set(),
    "appliance/meminfo.py": set(),
    "appliance/notify.py": set(),
    "appliance/model_dir.py": {"errors"},
    "appliance/config/*": {"errors", "config"},
    "appliance/access/*": {"errors", "config", "access"},
    "appliance/listener.py": {"errors", "config"},
    "appliance/connection.py": {"config"},
    "appliance/health_check.py": {"errors", "config", "doctor.health"},
    "appliance/backends/base.py": set(),
    "appliance/backends/*": {"errors", "config", "heap", "model_dir", "backends"},
    "appliance/engine/*": {"errors", "engine", "backends.base", "metrics"},
    "appliance/chat/*": {"errors", "config", "model_dir", "chat", "engine", "metrics"},
    "appliance/api/*": {
        "errors",
        "access",
        "api",
        "chat",
        "engine.sequence",
        "service",
        "metrics",
    },
    "appliance/bench/*": {"errors", "bench"},
    "appliance/stage/*": {"errors", "config", "meminfo", "model_dir", "stage"},
    "appliance/tune/*": {"errors", "config", "model_dir", "backends", "tune"},
    # Looks at what the others read, keep and need, through their own readers; no part of it runs.
    "appliance/doctor/*": {
        "errors",
        "access",
        "backends.compile_options",
        "config",
        "doctor",
        "listener",
        "meminfo",
        "model_dir",
        "stage",
        "tune",
    },
    "appliance/service.py": {"errors", "chat", "metrics"},
}

# Libraries that are known in few places, and where.
LIBRARIES = {
    "litestar": ["appliance/api/*", "appliance/app.py"],
    "uvicorn": ["appliance/serve.py", "appliance/connection.py"],
    "openvino": [
        "appliance/backends/loader.py",
        "appliance/backends/*/runner.py",
        "appliance/backends/*/model.py",
        "appliance/backends/stateful/batch.py",
        "provisioning/build_model/*",
    ],
    "numpy": [
        "appliance/engine/*",
        "appliance/backends/*",
        # Compares logits, which come from backends as arrays.
        "appliance/tune/closeness.py",
        "appliance/tune/contestant.py",
        "appliance/tune/tuner.py",
        # Reads memory as fast as it goes; imported when that is measured.
        "appliance/doctor/bandwidth.py",
        "provisioning/build_model/*",
    ],
    "tokenizers": ["appliance/chat/*", "provisioning/build_model/*"],
    "llguidance": ["appliance/chat/*"],
    "jinja2": ["appliance/chat/*", "provisioning/build_model/*"],
    "yaml": ["appliance/config/*", "provisioning/remembered.py"],
    "prometheus_client": ["appliance/metrics/*"],
    "httpx": ["appliance/bench/*", "provisioning/build_model/*"],
}

# They take seconds and hundreds of MB: only where a function needs them, only in the build world.
HEAVY = {
    "torch",
    "transformers",
    "optimum",
    "nncf",
    "gguf",
    "huggingface_hub",
    "safetensors",
    "accelerate",
}


@dataclass(frozen=True)
class Import:
    """One imported module: `appliance.errors`, not the names taken from it.

    `deferred`: not executed with its file, but in a function or for type checkers only.
    """

    path: Path
    line: int
    module: str
    deferred: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def modules_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        assert node.module is not None
        # `from appliance import errors` names a module, `from appliance.errors import X` does not.
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            place = ROOT / name.replace(".", "/")
            yield name if place.is_dir() or place.with_suffix(".py").is_file() else node.module


def is_for_types_only(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


@cache
def imports_of(path: Path) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, deferred: bool) -> None:
        for child in ast.iter_child_nodes(node):
            found.extend(Import(path, child.lineno, m, deferred) for m in modules_of(child))
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            visit(child, deferred or is_function or is_for_types_only(child))

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")), False)
    return found


def all_imports() -> list[Import]:
    return [one for path in SOURCES for one in imports_of(path)]


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def fits(path: Path, patterns: list[str]) -> bool:
    return any(fnmatch(path.as_posix(), pattern) for pattern in patterns)


def test_there_is_something_to_check() -> None:
    packages = {path.parts[:2] for path in SOURCES}
    assert {
        ("appliance", "engine"),
        ("appliance", "api"),
        ("provisioning", "build_model"),
    } <= packages
    engine = Path("appliance/engine/engine.py")
    assert "appliance.backends.base" in {one.module for one in imports_of(engine)}


def test_parts_of_the_service_import_only_what_lies_below_them() -> None:
    wrong = []
    for one in all_imports():
        rules = [pattern for pattern in MAY_IMPORT if fnmatch(one.path.as_posix(), pattern)]
        if rules and is_in(one.module, "appliance") and one.module != "appliance":
            allowed = MAY_IMPORT[max(rules, key=len)]
            if not any(is_in(one.module, f"appliance.{part}") for part in allowed):
                wrong.append(str(one))
    assert wrong == []


def test_only_the_composition_root_starts_and_serves() -> None:
    upper = ("appliance.app", "appliance.serve", "appliance.startup", "appliance.cli")
    tops = [f"appliance/{name}.py" for name in ("app", "serve", "supervision", "cli", "__main__")]
    wrong = [one for one in all_imports() if one.module in upper and not fits(one.path, tops)]
    assert list(map(str, wrong)) == []


def test_variants_of_the_backend_do_not_know_each_other() -> None:
    wrong = [
        one
        for one in all_imports()
        if one.path.parts[:2] == ("appliance", "backends")
        and len(one.path.parts) == 4
        and one.module.startswith("appliance.backends.")
        and len(one.module.split(".")) == 4
        and one.module.split(".")[2] != one.path.parts[2]
    ]
    assert list(map(str, wrong)) == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_known_in_few_places(library: str) -> None:
    users = [one for one in all_imports() if is_in(one.module, library)]
    assert users, "nobody imports it: the rule is out of date"
    assert [str(one) for one in users if not fits(one.path, LIBRARIES[library])] == []


def test_heavy_libraries_are_imported_inside_functions_of_the_build_only() -> None:
    users = [one for one in all_imports() if one.module.split(".")[0] in HEAVY]
    assert {"torch", "transformers", "nncf"} <= {one.module.split(".")[0] for one in users}
    wrong = [
        one
        for one in users
        if not (one.deferred and one.path.is_relative_to("provisioning/build_model"))
    ]
    assert list(map(str, wrong)) == []


def test_the_two_worlds_share_the_model_directory_and_little_else() -> None:
    shared = ("appliance.config", "appliance.errors", "appliance.model_dir")
    wrong = [
        one
        for one in all_imports()
        if (one.path.parts[0] == "appliance" and is_in(one.module, "provisioning"))
        or (
            one.path.parts[0] == "provisioning"
            and is_in(one.module, "appliance")
            and not any(is_in(one.module, module) for module in shared)
        )
    ]
    assert list(map(str, wrong)) == []


def test_a_file_is_of_one_mechanism() -> None:
    lines = {path: (ROOT / path).read_text(encoding="utf-8").count("\n") for path in SOURCES}
    assert {str(path): n for path, n in lines.items() if n > MAX_LINES} == {}, "split them"
    assert [str(p) for p in SOURCES if VAGUE_NAMES & {*p.parts[:-1], p.stem}] == []


def test_a_module_says_what_it_is() -> None:
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in SOURCES}
    assert [str(path) for path, tree in trees.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("appliance.serve", {"torch", "transformers", "openvino"}),
        ("appliance.backends.loader", {"torch", "transformers"}),
        ("appliance.doctor.examination", {"torch", "litestar", "openvino", "tokenizers", "numpy"}),
        ("appliance.cli", {"torch", "litestar", "openvino", "tokenizers", "numpy", "httpx"}),
        ("provisioning.build_model.cli", {*HEAVY, "openvino", "numpy", "tokenizers", "httpx"}),
    ],
)
def test_what_an_import_does_not_drag_in(module: str, left_out: set[str]) -> None:
    """A service with torch in it takes seven seconds and 700 MB more; a second run of the build
    that finds nothing to do must say so at once."""
    script = f"import sys, {module}; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    imported = {name.split(".")[0] for name in finished.stdout.split()}
    assert "appliance" in imported or "provisioning" in imported
    assert imported & left_out == set()
