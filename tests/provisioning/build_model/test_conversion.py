"""The whole conversion, on a random model small enough to convert in seconds."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from appliance.model_dir import MODEL_XML, Manifest, read_manifest, verify_files
from provisioning.build_model.errors import QualityGateError
from provisioning.build_model.workspace import workspace_of
from tests.provisioning.build_model import tiny_checkout
from tests.provisioning.sources.fake_hub import FakeHub, HubRepo, commit_of

pytestmark = pytest.mark.build

REPOSITORY = Path(__file__).parents[3]
# For what must come; long enough for a machine that is busy with other things.
PATIENCE_S = 280.0
COMMAND = (sys.executable, "-m", "provisioning.build_model")


def start(
    source: str, out: Path, *more: str, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--source", source, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=env,
    )


def build(source: str, out: Path, *more: str, env: dict[str, str] | None = None) -> str:
    """Run a build that must succeed; what it printed."""
    process = start(source, out, *more, env=env)
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkout.make(tmp_path_factory.mktemp("checkout") / "tiny-llama")


@pytest.fixture(scope="module")
def model(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published model directory of `checkout`; tests must not change it."""
    out = tmp_path_factory.mktemp("published") / "model"
    build(f"dir:{checkout}", out)
    return out


@pytest.fixture
def manifest(model: Path) -> Manifest:
    return read_manifest(model)


def test_manifest_describes_what_was_made(model: Path, manifest: Manifest) -> None:
    verify_files(model, manifest, checksums=True)
    assert manifest.name == "tiny-llama"
    assert manifest.source.revision.startswith("sha256:")
    sizes = manifest.architecture
    assert (sizes.model_type, sizes.vocab_size, sizes.max_model_len) == ("llama", 300, 512)
    assert (sizes.num_layers, sizes.num_kv_heads, sizes.head_dim) == (2, 2, 64)
    assert manifest.weights.precision == "int8"
    assert manifest.eos_token_ids == (257,)
    assert manifest.quality is not None
    assert manifest.quality.num_prompts >= 32
    assert set(manifest.versions) >= {"openvino", "optimum-intel", "nncf", "transformers", "torch"}
    assert not workspace_of(model).exists()


def test_published_ir_is_compressed_stateful_and_edited(model: Path, manifest: Manifest) -> None:
    import openvino as ov

    from provisioning.build_model.compress import compressed_weights
    from provisioning.build_model.ir_edit import check_edited

    ir = ov.Core().read_model(model / MODEL_XML)

    check_edited(ir)
    assert compressed_weights(ir) == manifest.weights


def test_ir_says_what_torch_says(checkout: Path, model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from provisioning.build_model.ir_session import IrSession

    ids = list(b"<|x|> the quick brown fox")
    with torch.inference_mode():
        original = AutoModelForCausalLM.from_pretrained(checkout)(torch.tensor([ids])).logits[0]
    session = IrSession(model / MODEL_XML)

    split = np.concatenate([session.forward(ids[:10], [4, 9]), session.forward(ids[10:], [14])])

    close = np.corrcoef(split.ravel(), original[[4, 9, 24]].numpy().ravel())[0, 1]
    assert close > 0.999


def test_golden_prompt_is_answered_again(model: Path, manifest: Manifest) -> None:
    from provisioning.build_model.ir_session import IrSession

    session = IrSession(model / MODEL_XML)
    pending, greedy = list(manifest.golden.prompt_ids), []
    for _ in manifest.golden.greedy_ids:
        greedy.append(int(session.forward(pending, [len(pending) - 1]).argmax()))
        pending = greedy[-1:]

    assert tuple(greedy) == manifest.golden.greedy_ids


def test_unchanged_inputs_build_nothing_and_import_no_torch(checkout: Path, model: Path) -> None:
    before = (model / "manifest.json").stat()
    code = (
        "import sys\n"
        "from provisioning.build_model.cli import run\n"
        "run(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'openvino', 'nncf', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    before_s = cpu_s_of_children()
    ended = subprocess.run(
        [sys.executable, "-c", code, "--source", f"dir:{checkout}", "--out", str(model)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "is up to date" in ended.stdout
    # Nothing is waited for, so the processor's time is the time it takes where others do not work.
    assert cpu_s_of_children() - before_s < 2
    assert (model / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns


def test_killed_build_leaves_the_old_model_and_the_next_goes_on(
    checkout: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    shutil.copytree(model, out)
    process = start(f"dir:{checkout}", out, "--name", "second")
    exported = workspace_of(out) / "export.json"
    wait_until(lambda: exported.exists() and json.loads(exported.read_text())["complete"])
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert read_manifest(out).name == "tiny-llama"
    verify_files(out, read_manifest(out), checksums=True)
    printed = build(f"dir:{checkout}", out, "--name", "second")
    assert "export: started" not in printed
    assert "compress: started" in printed
    assert read_manifest(out).name == "second"
    assert read_manifest(tmp_path / "model.previous").name == "tiny-llama"
    assert not workspace_of(out).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_build_in_order(checkout: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "model"
    process = start(f"dir:{checkout}", out)
    log = workspace_of(out) / "export.log"
    wait_until(log.exists)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 128 + number
    assert "goes on where this stopped" in errors
    assert not out.exists()
    # One that had only just begun finds out by itself that its parent is gone.
    wait_until(lambda: not children_of_builds(out))


def test_broken_quantisation_does_not_pass_the_gate(checkout: Path, tmp_path: Path) -> None:
    import openvino as ov

    from provisioning.build_model.quality import check_quality

    measured = {}
    for name, factor in (("right", 1.0), ("broken", 2.0)):
        ir = compressed(checkout, tmp_path)
        for constant in scales_of(ir, "layers.1.mlp"):
            wrong = ov.op.Constant((constant.data * factor).astype(constant.data.dtype))
            constant.output(0).replace(wrong.output(0))
        measured[name] = gate(checkout, ir, tmp_path / name)

    check_quality(measured["right"], "int8")
    with pytest.raises(QualityGateError, match="nothing was published"):
        check_quality(measured["broken"], "int8")


def test_ir_checkout_is_compressed_and_edited_without_export(
    checkout: Path, tmp_path: Path
) -> None:
    ready = tmp_path / "ready-ir"
    export(checkout, ready)

    printed = build(f"dir:{ready}", tmp_path / "model")

    assert "export: started" not in printed
    quality = read_manifest(tmp_path / "model").quality
    assert quality is not None
    assert quality.top1_agreement >= quality.min_top1_agreement


def test_a_model_of_the_hub_in_four_bits(checkout: Path, tmp_path: Path) -> None:
    """The whole way over the hub's protocol; the line breaks on the way."""
    out = tmp_path / "model"
    files = {path.name: path.read_bytes() for path in checkout.iterdir()}
    with FakeHub() as hub:
        hub.repos["Tiny/Llama"] = HubRepo({"main": files})
        hub.faults.cut["model.safetensors"] = (1 << 20, 1)
        env = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        printed = build("hf:Tiny/Llama", out, "--precision", "int4", env=env)
        assert any("range" in request.headers for request in hub.requests)
        num_requests = len(hub.requests)
        again = build("hf:Tiny/Llama", out, "--precision", "int4", env=env)
        assert {request.path.split("/")[1] for request in hub.requests[num_requests:]} <= {
            "api",
            "Tiny",  # config.json
        }

    assert "download: done" in printed and "top-1" in printed.splitlines()[-1]
    assert "is up to date" in again and len(again.splitlines()) == 1
    manifest = read_manifest(out)
    verify_files(out, manifest, checksums=True)
    assert (manifest.name, manifest.source.revision) == ("Llama", commit_of("main"))
    assert manifest.source.license == "apache-2.0"
    assert (manifest.weights.precision, manifest.weights.group_size) == ("int4", 64)
    assert not manifest.weights.symmetric
    assert manifest.quality is not None
    assert manifest.quality.mean_kl <= manifest.quality.max_mean_kl


def test_silent_hub_keeps_the_model_that_is_there(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    shutil.copytree(model, out)
    data = json.loads((out / "manifest.json").read_text())
    data["source"]["spec"] = "hf:some/model"
    (out / "manifest.json").write_text(json.dumps(data))

    ended = subprocess.run(
        [*COMMAND, "--source", "hf:some/model", "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        # Port 9 (discard) of this machine: refuses at once.
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")},
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "keeping the model" in ended.stdout
    assert len(ended.stdout.splitlines()) == 1


def export(checkout: Path, directory: Path) -> None:
    from provisioning.build_model.export import export_stateful

    with pytest.warns():  # the libraries' own, of tracing
        export_stateful(checkout, directory)


def compressed(checkout: Path, tmp_path: Path) -> object:
    """The edited INT8 IR of `checkout`, in memory."""
    import openvino as ov

    from provisioning.build_model.compress import RECIPES, compress
    from provisioning.build_model.ir_edit import gather_before_lm_head

    if not (tmp_path / "ir").exists():
        export(checkout, tmp_path / "ir")
    ir = compress(ov.Core().read_model(tmp_path / "ir" / MODEL_XML), RECIPES["int8"])
    gather_before_lm_head(ir)
    return ir


def scales_of(ir: object, layer: str) -> list:
    return [
        node
        for node in ir.get_ops()
        if node.get_type_name() == "Constant"
        and layer in node.get_friendly_name()
        and node.get_friendly_name().endswith("/scale")
    ]


def gate(checkout: Path, ir: object, directory: Path) -> dict:
    """The figures of the quality gate for the IR in memory."""
    import openvino as ov

    from provisioning.build_model.quality import verify_model
    from provisioning.build_model.reference import write_reference
    from provisioning.build_model.sources.base import Checkout
    from provisioning.build_model.tokenizer_files import read_text_side, write_text_files

    directory.mkdir()
    text = read_text_side(checkout)
    write_text_files(checkout, text, directory)
    ov.save_model(ir, directory / MODEL_XML, compress_to_fp16=False)
    reference = directory / "reference"
    reference.mkdir()
    write_reference(Checkout(checkout, is_openvino=False), text, reference, SilentStage())
    return verify_model(directory / MODEL_XML, reference, text, SilentStage())["measured"]


class SilentStage:
    def advance(self, amount: int) -> None: ...

    def total(self, total: int) -> None: ...


def cpu_s_of_children() -> float:
    """The processor's seconds that ended children of this process took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def children_of_builds(out: Path) -> list[str]:
    """Command lines of running stages that work for `out`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "build_model.worker" in line and str(out.parent) in line:
            found.append(line)
    return found


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the build never came so far"
        time.sleep(0.02)
