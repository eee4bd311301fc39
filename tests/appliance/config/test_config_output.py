"""The example file, the listing and the command line options."""

import argparse
import re
from pathlib import Path

import pytest

from appliance.config import (
    Config,
    add_arguments,
    describe,
    example_yaml,
    load_config,
    load_from_arguments,
)
from appliance.config.load import SETTINGS
from appliance.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "provisioning" / "config.example.yaml"
NOWHERE = Path("/nonexistent/config.yaml")


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


def test_the_example_in_the_repository_is_the_generated_one() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == example_yaml(), (
        "write it again: qwen-appliance config --example > provisioning/config.example.yaml"
    )


def test_the_example_changes_nothing_as_it_is() -> None:
    loaded = load_config(EXAMPLE, {}, {})
    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {"default"}


def test_the_example_with_every_line_switched_on_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(re.sub(r"^  #(?=\w)", "  ", example_yaml(), flags=re.MULTILINE))
    loaded = load_config(path, {}, {})
    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {f"file {path}"}


def test_the_example_explains_every_setting_within_100_columns() -> None:
    text = example_yaml()
    for setting in SETTINGS:
        assert setting.variable in text
        assert f"  #{setting.name}: " in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_listing_has_value_and_source_of_every_setting() -> None:
    env = {"QWEN_APPLIANCE_MODEL_NAME": "two: words"}
    loaded = load_config(None, env, {"--model": "/m", "--port": "0"}, default_file=NOWHERE)
    lines = {line.key: (line.value, line.source) for line in describe(loaded)}
    assert list(lines) == [setting.key for setting in SETTINGS]
    assert lines["server.port"] == ("0", "argument --port")
    assert lines["server.shutdown_grace_s"] == ("30", "default")
    assert lines["model.dir"] == ("/m", "argument --model")
    assert lines["model.name"] == ('"two: words"', "environment QWEN_APPLIANCE_MODEL_NAME")
    assert lines["engine.max_model_len"] == ("null", "default")
    assert lines["engine.prompt_lookup"] == ("true", "default")


@pytest.mark.parametrize("name", ["true", "~", "12", "a #b", " a", "模型", "a\nb", '"'])
def test_a_listed_text_reads_back_as_the_same_text(tmp_path: Path, name: str) -> None:
    env = {"QWEN_APPLIANCE_MODEL_NAME": name}
    lines = describe(load_config(None, env, {}, default_file=NOWHERE))
    path = tmp_path / "config.yaml"
    value = next(line.value for line in lines if line.key == "model.name")
    path.write_text(f"model:\n  name: {value}\n", encoding="utf-8")
    assert load_config(path, {}, {}).config.model.name == name


def test_arguments_become_settings(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server: {host: a, port: 1}\n")
    args = parse("--config", str(path), "--port", "2", "--set", "engine.max_waiting=0", "--model=m")
    loaded = load_from_arguments(args, {})
    assert (loaded.config.server.host, loaded.config.server.port) == ("a", 2)
    assert loaded.config.engine.max_waiting == 0
    assert loaded.config.model.dir == Path("m")
    assert loaded.sources["engine.max_waiting"] == "argument --set engine.max_waiting"


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "none.yaml").touch()
    args = parse("--config", str(tmp_path / "none.yaml"), "--set", "model.name=a=b")
    assert load_from_arguments(args, {}).config.model.name == "a=b"


def test_assignments_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        load_from_arguments(parse("--set", "server.port"), {})
    with pytest.raises(ConfigError, match="given twice"):
        load_from_arguments(parse("--set", "server.port=1", "--set", "server.port=2"), {})
    with pytest.raises(ConfigError, match="unknown"):
        load_from_arguments(parse("--set", "=2"), {})
