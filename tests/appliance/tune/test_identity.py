"""What a calibration is keyed by."""

from __future__ import annotations

import dataclasses
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from appliance.backends.cpu_quota import cpu_quota
from appliance.backends.model_hash import model_hash
from appliance.model_dir import MODEL_BIN, TOKENIZER, FileEntry, Manifest, read_manifest
from appliance.tune.identity import cpu_name, identity_of, num_usable_cpus

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 190
model name\t: Intel(R) N100
stepping\t: 0
cpu MHz\t\t: 800.000

processor\t: 1
model name\t: another
"""
ARM = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


def test_a_cpu_has_a_name_and_a_number_of_cpus(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    cpuinfo.write_text(X86)
    ours = f"{num_usable_cpus()} CPUs"
    if (quota := cpu_quota()) is not None:  # of whatever the tests run in
        ours += f", the time of {quota:g}"
    assert cpu_name(cpuinfo) == f"Intel(R) N100, cpu family 6, model 190, stepping 0, {ours}"
    cpuinfo.write_text(ARM)
    assert cpu_name(cpuinfo) == f"CPU implementer 0x41, CPU part 0xd0b, {ours}"
    assert cpu_name(cpuinfo / "none") == ours


def test_a_clock_that_changes_is_not_part_of_it(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    before = cpu_name(cpuinfo)
    cpuinfo.write_text(X86.replace("800.000", "3400.000"))
    assert cpu_name(cpuinfo) == before


def test_a_cpu_made_smaller_is_another(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo.write_text(X86)
    whole = cpu_name(cpuinfo)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI")
    assert cpu_name(cpuinfo) == whole + ", ONEDNN_MAX_CPU_ISA=AVX2_VNNI"
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1:
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert ", 1 CPUs," in cpu_name(cpuinfo)
        finally:
            os.sched_setaffinity(0, allowed)


def with_file(manifest: Manifest, name: str, sha256: str) -> Manifest:
    entry = FileEntry(sha256, manifest.files[name].size_bytes)
    return dataclasses.replace(manifest, files={**manifest.files, name: entry})


def test_a_model_is_its_weights_and_graph(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    assert model_hash(with_file(manifest, MODEL_BIN, "00")) != model_hash(manifest)
    assert model_hash(with_file(manifest, TOKENIZER, "00")) == model_hash(manifest)


def test_the_identity_of_here(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    here = identity_of(manifest, "paged")
    assert here.openvino == version("openvino")
    assert (here.model, here.kv_cache) == (model_hash(manifest), "paged")
    assert here.difference(here) is None
    assert here.difference(identity_of(manifest, "stateful")) == (
        "made for kv_cache paged, this is stateful"
    )
