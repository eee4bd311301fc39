"""From settings and manifest to a backend: context window, KV size, OpenVINO's properties."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from appliance.backends.block_kv_cache import BlockKVCache
from appliance.backends.block_pool import BLOCK_SIZE
from appliance.backends.compile_options import CompileOptions
from appliance.backends.create import compile_options, create_backend
from appliance.backends.paged.model import check_release
from appliance.config import EngineConfig
from appliance.errors import BackendError, ConfigError
from appliance.model_dir import Manifest, read_manifest


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compile-cache")


def manifest_of(directory: Path, max_model_len: int) -> Manifest:
    manifest = read_manifest(directory)
    architecture = dataclasses.replace(manifest.architecture, max_model_len=max_model_len)
    return dataclasses.replace(manifest, architecture=architecture)


def test_a_longer_window_than_the_model_s_is_refused_before_anything_is_loaded(
    tiny_model_dir: Path,
) -> None:
    with pytest.raises(ConfigError, match="context is 4096") as caught:
        create_backend(
            EngineConfig(max_model_len=4097), tiny_model_dir, manifest_of(tiny_model_dir, 4096)
        )
    assert (caught.value.key, caught.value.value) == ("engine.max_model_len", 4097)


@pytest.mark.model
@pytest.mark.parametrize(
    ("of_model", "configured", "expected"),
    [(2048, None, 2048), (32768, None, 8192), (32768, 10000, 10000), (4096, 4096, 4096)],
)
def test_the_window_is_the_model_s_own_but_at_most_8192_unless_configured(
    model_dir: Path, compile_cache: Path, of_model: int, configured: int | None, expected: int
) -> None:
    config = EngineConfig(max_model_len=configured, compile_cache_dir=compile_cache, num_threads=1)
    backend = create_backend(config, model_dir, manifest_of(model_dir, of_model))
    assert backend.runner.limits.max_model_len == expected
    assert backend.kv.allocate((1,) * expected) is not None
    assert backend.description == "stateful KV cache, int8, 1 thread"
    backend.runner.close()


@pytest.mark.model
def test_the_paged_pool_takes_what_it_is_given_and_holds_one_sequence_at_least(
    model_dir: Path, compile_cache: Path
) -> None:
    config = EngineConfig(
        kv_cache="paged", kv_cache_mb=128, compile_cache_dir=compile_cache, num_threads=2
    )
    backend = create_backend(config, model_dir, read_manifest(model_dir))
    limits = backend.runner.limits
    assert (limits.max_slots, limits.mixes_phases) == (8, True)
    assert backend.description == "paged KV cache, int8, 2 threads"
    allocation = backend.kv.allocate((1,) * 100)
    assert allocation is not None and backend.kv.reserve(allocation.slot, 100)
    assert 0 < backend.kv.stats().num_bytes <= 128_000_000
    backend.runner.close()
    small = dataclasses.replace(config, kv_cache_mb=1)
    with pytest.raises(ConfigError, match=r"engine\.kv_cache_mb = 1: one sequence of"):
        create_backend(small, model_dir, read_manifest(model_dir))


def test_the_private_transformation_is_used_with_tested_releases_only() -> None:
    check_release("2026.4.1-12345-releases/2026/4")
    with pytest.raises(BackendError, match=r"this is 2027\.0; use engine\.kv_cache stateful"):
        check_release("2027.0.0")


@pytest.mark.model
@pytest.mark.parametrize(
    ("precision", "bytes_per_value"), [("auto", 1), ("u8", 1), ("f16", 2), ("f32", 4)]
)
def test_bytes_of_kv_follow_the_model_s_sizes_and_the_precision(
    model_dir: Path, compile_cache: Path, precision: str, bytes_per_value: int
) -> None:
    manifest = read_manifest(model_dir)
    config = EngineConfig(
        kv_cache_precision=precision,  # type: ignore[arg-type]
        compile_cache_dir=compile_cache,
    )
    backend = create_backend(config, model_dir, manifest)
    allocation = backend.kv.allocate((1, 2, 3))
    assert allocation is not None and backend.kv.reserve(allocation.slot, 3)
    backend.kv.commit(allocation.slot, (1, 2, 3))
    shape = manifest.architecture
    num_heads = 2 * shape.num_layers * shape.num_kv_heads
    # Two float32 a head tell what its 8-bit steps mean.
    one_token = num_heads * (shape.head_dim * bytes_per_value + (8 if bytes_per_value == 1 else 0))
    assert backend.kv.stats().num_bytes == BLOCK_SIZE * one_token
    backend.runner.close()


@pytest.mark.model
def test_prefixes_have_the_room_that_was_configured_or_that_one_sequence_needs(
    model_dir: Path, compile_cache: Path
) -> None:
    manifest = read_manifest(model_dir)
    config = EngineConfig(compile_cache_dir=compile_cache)

    def capacity(**settings: int) -> int:
        kv = create_backend(dataclasses.replace(config, **settings), model_dir, manifest).kv
        assert isinstance(kv, BlockKVCache)
        return kv.num_blocks * BLOCK_SIZE

    assert capacity(prefix_cache_mb=300) > 2 * capacity(prefix_cache_mb=120) > 0
    assert capacity(max_model_len=8192) >= 8192
    with pytest.raises(ConfigError, match=r"engine\.prefix_cache_mb = 2: one sequence of 8192"):
        capacity(prefix_cache_mb=2)


def test_choices_left_open_are_not_passed_on(tmp_path: Path) -> None:
    properties = compile_options(EngineConfig(compile_cache_dir=tmp_path)).properties()
    assert properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] > 0
    for name in ("INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT"):
        assert name not in properties
    assert properties["KV_CACHE_PRECISION"] == "f16"
    paged = compile_options(EngineConfig(kv_cache="paged", compile_cache_dir=tmp_path))
    assert paged.properties()["KV_CACHE_PRECISION"] == "u8"


def test_choices_made_are_passed_on(tmp_path: Path) -> None:
    config = EngineConfig(
        num_threads=3,
        dynamic_quantization_group_size=0,
        inference_precision="bf16",
        kv_cache_precision="f16",
        compile_cache_dir=tmp_path / "deep" / "cache",
    )
    assert compile_options(config).properties() == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "CPU_RUNTIME_CACHE_CAPACITY": 16,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_NUM_THREADS": 3,
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "f16",
        "CACHE_DIR": str(tmp_path / "deep" / "cache"),
        "CACHE_MODE": "OPTIMIZE_SIZE",
    }
    assert (tmp_path / "deep" / "cache").is_dir()


@pytest.mark.parametrize("place", ["a file", "under a file"])
def test_a_cache_directory_that_cannot_be_is_told_and_done_without(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    options = compile_options(
        EngineConfig(compile_cache_dir=file if place == "a file" else file / "cache")
    )
    assert "CACHE_DIR" not in options.properties()
    assert "no compile cache" in caplog.text
    assert str(file) in caplog.text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/caches", "HOME": "/home/one"}, Path("/caches/qwen-appliance")),
        ({"HOME": "/home/one"}, Path("/home/one/.cache/qwen-appliance")),
        ({"HOME": "/"}, None),
    ],
)
def test_the_compile_cache_lies_in_the_user_s_cache_unless_configured(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Path | None
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options: CompileOptions = compile_options(EngineConfig())
    assert options.cache_dir == expected
    assert compile_options(EngineConfig(compile_cache_dir=Path("/x"))).cache_dir == Path("/x")
