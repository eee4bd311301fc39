"""What the loader says of an IR that cannot be used, and of one that can."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.backends.compile_options import CompileOptions
from appliance.backends.loader import INPUTS, compile_model
from appliance.errors import BackendError, ModelDirError
from appliance.model_dir import MODEL_BIN, MODEL_XML


def options(**changes: object) -> CompileOptions:
    settings: dict[str, object] = {
        "num_threads": 1,
        "dynamic_quantization_group_size": 32,
        "inference_precision": None,
        "kv_cache_precision": None,
        "cache_dir": None,
    }
    return CompileOptions(**{**settings, **changes})  # type: ignore[arg-type]


def write_ir(directory: Path, *input_names: str) -> Path:
    """A small real IR: the sum of its inputs and of a constant that lies in the weights' file."""
    import numpy as np
    import openvino as ov
    from openvino import opset15 as ops

    parameters = [ops.parameter([64], np.float32, name=name) for name in input_names]
    for parameter, name in zip(parameters, input_names, strict=True):
        parameter.output(0).set_names({name})
    total = ops.constant(np.arange(64, dtype=np.float32))
    for parameter in parameters:
        total = ops.add(total, parameter)
    directory.mkdir(exist_ok=True)
    ov.save_model(ov.Model([ops.result(total)], parameters, "sum"), directory / MODEL_XML)
    return directory


def test_a_missing_ir_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelDirError, match=MODEL_XML) as caught:
        compile_model(tmp_path, options())
    assert caught.value.path == tmp_path
    assert "build-model.sh" in str(caught.value)


def test_an_ir_that_cannot_pick_positions_is_named(tmp_path: Path) -> None:
    names = sorted(INPUTS - {"logits_indices"})
    with pytest.raises(ModelDirError, match=r"has no input logits_indices.*build-model\.sh"):
        compile_model(write_ir(tmp_path, *names), options())


def test_an_ir_with_all_inputs_is_taken(tmp_path: Path) -> None:
    compiled = compile_model(write_ir(tmp_path, *sorted(INPUTS)), options())
    assert len(compiled.inputs) == len(INPUTS)


def test_what_openvino_says_reaches_the_reader_in_one_line(tmp_path: Path) -> None:
    """The reason stands behind lines that only name OpenVINO's own source files."""
    directory = write_ir(tmp_path, *sorted(INPUTS))
    with pytest.raises(BackendError, match="f99") as caught:
        compile_model(directory, options(inference_precision="f99"))
    text = str(caught.value)
    assert str(directory / MODEL_XML) in text
    assert "Supported values" in text
    assert "Exception from" not in text
    assert "\n" not in text


def test_weights_that_are_cut_short_are_openvino_s_to_refuse(tmp_path: Path) -> None:
    directory = write_ir(tmp_path, *sorted(INPUTS))
    (directory / MODEL_BIN).write_bytes(b"\0" * 8)
    with pytest.raises(BackendError, match=r"(?i)weights"):
        compile_model(directory, options())


def test_a_second_start_finds_the_compile_cache(tmp_path: Path) -> None:
    directory = write_ir(tmp_path / "model", *sorted(INPUTS))
    cache_dir = tmp_path / "cache"
    compile_model(directory, options(cache_dir=cache_dir))
    blobs = {path: path.stat().st_mtime_ns for path in cache_dir.iterdir()}
    assert blobs
    compiled = compile_model(directory, options(cache_dir=cache_dir))
    assert compiled.get_property("LOADED_FROM_CACHE") is True
    assert {path: path.stat().st_mtime_ns for path in cache_dir.iterdir()} == blobs
