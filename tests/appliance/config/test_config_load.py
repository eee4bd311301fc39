"""File < environment < arguments, and what each of them refuses."""

from pathlib import Path

import pytest

from appliance.config import Config, LoadedConfig, load_config
from appliance.config.load import SETTINGS
from appliance.errors import ConfigError

NOWHERE = Path("/nonexistent/config.yaml")


def load(
    file: Path | None = None,
    env: dict[str, str] | None = None,
    overrides: dict[str, str] | None = None,
    default_file: Path = NOWHERE,
) -> LoadedConfig:
    return load_config(file, env or {}, overrides or {}, default_file=default_file)


def refused(
    file: Path | None = None,
    env: dict[str, str] | None = None,
    overrides: dict[str, str] | None = None,
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(file, env, overrides)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def yaml_file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_anything_the_defaults_hold() -> None:
    loaded = load()
    assert loaded.config == Config()
    assert loaded.file is None
    assert set(loaded.sources) == {setting.key for setting in SETTINGS}
    assert set(loaded.sources.values()) == {"default"}


def test_every_default_satisfies_its_own_rule() -> None:
    for setting in SETTINGS:
        as_yaml = {Path: str, tuple: list}.get(setting.kind, lambda value: value)
        value = as_yaml(setting.default)
        expected = None if setting.default is None else setting.default
        assert setting.from_yaml(None if setting.default is None else value, Path()) == expected


def test_file_then_environment_then_argument(yaml_file) -> None:
    path = yaml_file("server:\n  port: 1\n  host: a\n  log_level: debug\n")
    loaded = load(
        path,
        {"QWEN_APPLIANCE_SERVER_PORT": "2", "QWEN_APPLIANCE_SERVER_HOST": "b", "HOME": "/x"},
        {"server.port": "3"},
    )
    server = loaded.config.server
    assert (server.port, server.host, server.log_level) == (3, "b", "debug")
    assert loaded.sources["server.port"] == "argument --set server.port"
    assert loaded.sources["server.host"] == "environment QWEN_APPLIANCE_SERVER_HOST"
    assert loaded.sources["server.log_level"] == f"file {path}"
    assert loaded.sources["server.max_body_bytes"] == "default"


def test_an_option_is_named_as_the_source() -> None:
    loaded = load(overrides={"--port": "9", "--model": "/m"})
    assert loaded.config.server.port == 9
    assert loaded.config.model.dir == Path("/m")
    assert loaded.sources["server.port"] == "argument --port"


def test_one_setting_by_two_arguments_is_refused() -> None:
    error = refused(overrides={"--port": "9", "server.port": "10"})
    assert str(error) == (
        "config: server.port = '10' (argument --set server.port): "
        "given twice, also by argument --port"
    )


def test_null_is_allowed_where_the_type_says_so(yaml_file) -> None:
    path = yaml_file("generation: {temperature: 0.5}\n")
    assert load(path).config.generation.temperature == 0.5
    for text in ("", "null"):
        env = {"QWEN_APPLIANCE_GENERATION_TEMPERATURE": text}
        assert load(path, env).config.generation.temperature is None
    error = refused(env={"QWEN_APPLIANCE_SERVER_PORT": ""})
    assert error.expected == "expected a whole number from 0 to 65535"


def test_paths_start_at_the_file_or_at_the_working_directory(yaml_file, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    path = yaml_file("model: {dir: models/m}\nengine: {compile_cache_dir: ~/cache}\n")
    loaded = load(path)
    assert loaded.config.model.dir == path.parent / "models/m"
    assert loaded.config.engine.compile_cache_dir == Path("/home/somebody/cache")
    assert load(overrides={"--model": "models/m"}).config.model.dir == Path("models/m")


def test_which_file_is_read(yaml_file, tmp_path: Path) -> None:
    def port_in(name: str, port: int) -> Path:
        (tmp_path / name).write_text(f"server: {{port: {port}}}\n")
        return tmp_path / name

    given, named, installed = port_in("a", 1), port_in("b", 2), port_in("c", 3)
    env = {"QWEN_APPLIANCE_CONFIG": str(named)}
    assert load(given, env, default_file=installed).config.server.port == 1
    assert load(None, env, default_file=installed).config.server.port == 2
    assert load(None, {}, default_file=installed).config.server.port == 3
    assert load(None, {"QWEN_APPLIANCE_CONFIG": ""}, default_file=installed).file == installed


def test_a_named_file_that_is_missing_is_an_error() -> None:
    error = refused(NOWHERE)
    assert str(error) == (
        "config: file = '/nonexistent/config.yaml' (argument --config): "
        "cannot be read: No such file or directory"
    )
    error = refused(env={"QWEN_APPLIANCE_CONFIG": str(NOWHERE)})
    assert error.source == "environment QWEN_APPLIANCE_CONFIG"


def test_a_default_file_out_of_reach_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(default_file=loop)
    assert load(default_file=tmp_path / "no" / "such").file is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "server:\nengine:\n"])
def test_a_file_without_settings_is_fine(yaml_file, text: str) -> None:
    assert load(yaml_file(text)).config == Config()


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfserver: {port: 5}\r\n")
    assert load(path).config.server.port == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1\n", "holds a list, expected sections such as `server:`"),
        ("hello\n", "holds a str, expected sections such as `server:`"),
        ("server: {port: 1, port: 2}\n", "line 1, column 19: port is given twice"),
        ("server:\n  port: 1\nserver:\n", "line 3, column 1: server is given twice"),
        ("server: [\n", "line 2, column 1: while parsing a flow node, expected the node content"),
        (
            "a: 1\n---\nb: 2\n",
            "line 2, column 1: expected a single document in the stream, but found",
        ),
        ("a: 2024-99-99\n", "month must be in 1..12"),
        (
            "a: !!python/name:os.system x\n",
            "line 1, column 4: could not determine a constructor for the tag",
        ),
        ("[" * 5000, "is nested too deeply"),
        ("? [a, b]\n: 1\n", "line 1, column 3: while constructing a mapping, found unhashable key"),
        ("a: \x07\n", "character 3: special characters are not allowed"),
    ],
)
def test_a_file_that_is_no_configuration(yaml_file, text: str, expected: str) -> None:
    error = refused(yaml_file(text))
    assert error.key == "file"
    assert error.expected.startswith(expected)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes("# größe\n".encode("latin-1"))
    assert refused(path).expected == "is not UTF-8: byte 4: invalid start byte"


def test_unknown_names_come_with_the_nearest_known_one(yaml_file) -> None:
    error = refused(yaml_file("server: {prot: 1}\n"))
    assert error.expected == "unknown; did you mean server.port?"
    error = refused(yaml_file("sever: {port: 1}\n"))
    assert (error.key, error.expected) == ("sever", "unknown; did you mean server?")
    error = refused(yaml_file("1: 2\n"))
    assert (error.key, error.expected) == ("1", "unknown; see `qwen-appliance config`")
    error = refused(env={"QWEN_APPLIANCE_SERVER_PROT": "1"})
    assert error.key == "QWEN_APPLIANCE_SERVER_PROT"
    assert error.expected == "unknown; did you mean QWEN_APPLIANCE_SERVER_PORT?"
    error = refused(overrides={"engine.max_wating": "1"})
    assert error.expected == "unknown; did you mean engine.max_waiting?"


def test_variables_of_the_tests_are_not_settings() -> None:
    assert load(env={"QWEN_APPLIANCE_TEST_MODEL": "x"}).config == Config()


def test_a_section_that_is_no_mapping(yaml_file) -> None:
    error = refused(yaml_file("server: 8000\n"))
    assert (error.key, error.expected) == ("server", "expected settings below it, indented")


PORT = "expected a whole number from 0 to 65535"
GRACE = "expected a number from 0 to 600"


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("server", "port: '8000'", PORT),
        ("server", "port: true", PORT),
        ("server", "port: 80.0", PORT),
        ("server", "port: 65536", PORT),
        ("server", "port: -1", PORT),
        ("server", "port: [1]", PORT),
        ("server", "port: null", PORT),
        ("server", "max_body_bytes: 1" + "0" * 400, "expected a whole number of at least 1024"),
        ("server", "shutdown_grace_s: .nan", GRACE),
        ("server", "shutdown_grace_s: .inf", GRACE),
        ("server", "shutdown_grace_s: false", GRACE),
        ("server", "shutdown_grace_s: 1" + "0" * 400, GRACE),
        ("server", "host: 1", "expected text"),
        ("server", "host: ''", "expected text"),
        ("server", "log_level: loud", "expected one of debug, info, warning, error"),
        ("model", "dir: 3", "expected a path or null"),
        ("model", "dir: ''", "expected a path or null"),
        ("model", 'dir: "a\\0b"', "expected a path or null"),
        ("engine", "prompt_lookup: 1", "expected true or false"),
        ("engine", "prompt_lookup: 'true'", "expected true or false"),
        ("engine", "prompt_lookup: null", "expected true or false"),
        ("generation", "top_p: 0", "expected a number above 0 up to 1 or null"),
    ],
)
def test_values_a_file_may_not_hold(yaml_file, section: str, line: str, expected: str) -> None:
    path = yaml_file(f"{section}:\n  {line}\n")
    error = refused(path)
    assert error.key == f"{section}.{line.partition(':')[0]}"
    assert error.expected == expected
    assert error.source == f"file {path}"


@pytest.mark.parametrize("text", ["8000.0", " 1", "1_0", "0x1", "٣", "9" * 30, "true", "--1"])
def test_texts_that_are_no_whole_number(text: str) -> None:
    assert refused(overrides={"server.port": text}).expected == PORT


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_what_is_on_or_off(yaml_file, text: str, value: bool) -> None:
    name = "engine.prompt_lookup"
    path = yaml_file(f"engine:\n  prompt_lookup: {text}\n")
    for loaded in (load(path), load(overrides={name: text})):
        assert loaded.config.engine.prompt_lookup is value


@pytest.mark.parametrize("text", ["", "1", "yes", "True", "null"])
def test_texts_that_are_neither_on_nor_off(text: str) -> None:
    error = refused(overrides={"engine.prompt_lookup": text})
    assert error.expected == "expected true or false"


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400", "1_0", "601", "x", "1e"])
def test_texts_that_are_no_number(text: str) -> None:
    assert refused(overrides={"server.shutdown_grace_s": text}).expected == GRACE


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), (".5", 0.5), ("5e-1", 0.5), ("+2.", 2.0)])
def test_texts_that_are_numbers(text: str, value: float) -> None:
    grace = load(overrides={"server.shutdown_grace_s": text}).config.server.shutdown_grace_s
    assert grace == value
    assert type(grace) is float


def test_a_whole_number_serves_as_a_number(yaml_file) -> None:
    grace = load(yaml_file("server: {shutdown_grace_s: 5}\n")).config.server.shutdown_grace_s
    assert (grace, type(grace)) == (5.0, float)


def test_the_message_names_key_value_source_and_expectation() -> None:
    error = refused(env={"QWEN_APPLIANCE_SERVER_PORT": "eighty"})
    assert str(error) == (
        "config: server.port = 'eighty' (environment QWEN_APPLIANCE_SERVER_PORT): "
        "expected a whole number from 0 to 65535"
    )
    assert error.exit_code == 2


def test_the_default_answer_must_fit_under_the_ceiling() -> None:
    error = refused(overrides={"generation.max_tokens_ceiling": "100"})
    assert error.key == "generation.max_tokens_ceiling"
    assert error.expected == "expected at least generation.default_max_tokens, which is 512"
    error = refused(overrides={"generation.default_max_tokens": "5000"})
    assert error.key == "generation.default_max_tokens"
    assert error.expected == "expected at most generation.max_tokens_ceiling, which is 4096"


def test_a_list_of_texts(yaml_file) -> None:
    key = "server.cors_origins"
    assert load(yaml_file("server:\n  cors_origins: [a, b]\n")).config.server.cors_origins == (
        "a",
        "b",
    )
    assert load(yaml_file("server:\n  cors_origins: []\n")).config.server.cors_origins == ()
    for text, expected in (("a", ("a",)), ("a, b", ("a", "b")), ("", ()), (" ", ())):
        assert load(None, {}, {key: text}).config.server.cors_origins == expected
    for wrong in ("a", "5", "[5]", "[a, '']", "null"):
        with pytest.raises(ConfigError, match="expected a list of texts"):
            load(yaml_file(f"server:\n  cors_origins: {wrong}\n"))
    with pytest.raises(ConfigError, match="expected a list of texts"):
        load(None, {}, {key: "a,,b"})
