"""`qwen-appliance key`, and where its file is."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from appliance.access.key_ring import KeyRing
from appliance.access.place import with_key_file
from appliance.cli import main
from appliance.config import load_config

Capture = pytest.CaptureFixture[str]
NOWHERE = Path("/nonexistent/config.yaml")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys and settings."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("QWEN_APPLIANCE_SERVER_API_KEYS_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def key(capsys: Capture, *arguments: str) -> str:
    """What a verb prints on stdout; it must succeed."""
    code = main(["key", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def refused(capsys: Capture, *arguments: str) -> str:
    assert main(["key", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_a_key_is_shown_once_and_counts_until_it_is_removed(capsys: Capture, home: Path) -> None:
    path = home / "qwen-appliance" / "api-keys"
    ann = key(capsys, "add", "ann").strip()
    bob = key(capsys, "add", "bob").strip()
    ring = KeyRing(path)
    assert (ring.name_of(ann), ring.name_of(bob)) == ("ann", "bob")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ann not in path.read_text()
    listed = key(capsys, "list")
    assert [line.split()[0] for line in listed.splitlines()] == ["ann", "bob"]
    assert ann not in listed
    key(capsys, "remove", "ann")
    ring.reload()
    assert (ring.name_of(ann), ring.name_of(bob)) == (None, "bob")


def test_the_key_alone_is_on_stdout(capsys: Capture) -> None:
    assert main(["key", "add", "ann"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("sk-") and captured.out.count("\n") == 1
    assert "api-keys" in captured.err


def test_no_file_is_an_empty_list(capsys: Capture) -> None:
    assert key(capsys, "list") == ""


def test_a_name_that_is_taken_unknown_or_none(capsys: Capture) -> None:
    key(capsys, "add", "ann")
    assert "'ann'" in refused(capsys, "add", "ann")
    assert "has no key" in refused(capsys, "remove", "eve")
    assert "ann has" in refused(capsys, "remove", "eve")
    for name in ("", "a b", "a" * 65, "ключ"):
        assert "expected up to 64" in refused(capsys, "add", name)


def test_a_file_that_cannot_be_used(capsys: Capture, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("nonsense\n")
    for verb in (["add", "eve"], ["remove", "eve"], ["list"]):
        assert "line 1" in refused(capsys, *verb, "--file", str(broken))
    assert broken.read_text() == "nonsense\n"
    assert "cannot be used" in refused(capsys, "add", "a", "--file", str(broken / "x"))
    assert "No such file" in refused(capsys, "remove", "a", "--file", str(tmp_path / "no" / "x"))


def test_the_setting_says_which_file(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, by_setting = tmp_path / "named", tmp_path / "by-setting"
    (tmp_path / "config.yaml").write_text("server:\n  api_keys_file: by-setting\n")
    key(capsys, "add", "a", "--config", str(tmp_path / "config.yaml"))
    key(capsys, "add", "b", "--config", str(tmp_path / "config.yaml"), "--file", str(named))
    assert [len(KeyRing(path)) for path in (by_setting, named)] == [1, 1]
    monkeypatch.setenv("QWEN_APPLIANCE_SERVER_API_KEYS_FILE", str(named))
    assert key(capsys, "list").startswith("b ")


def test_the_service_finds_a_credential_then_the_users_own_file(
    capsys: Capture, home: Path, tmp_path: Path
) -> None:
    def found(**env: str) -> tuple[Path | None, str]:
        loaded = load_config(None, env, {}, default_file=NOWHERE)
        loaded = with_key_file(loaded, {"XDG_CONFIG_HOME": str(home), **env})
        return loaded.config.server.api_keys_file, loaded.sources["server.api_keys_file"]

    assert found() == (None, "default")
    assert found(CREDENTIALS_DIRECTORY=str(tmp_path)) == (None, "default")
    key(capsys, "add", "ann")
    own = home / "qwen-appliance" / "api-keys"
    assert found() == (own, "found")
    assert found(XDG_CONFIG_HOME="", HOME=str(tmp_path)) == (None, "default")
    (tmp_path / "api-keys").touch()
    assert found(CREDENTIALS_DIRECTORY=str(tmp_path)) == (tmp_path / "api-keys", "credential")
    assert found(
        CREDENTIALS_DIRECTORY=str(tmp_path), QWEN_APPLIANCE_SERVER_API_KEYS_FILE="/mine"
    ) == (Path("/mine"), "environment QWEN_APPLIANCE_SERVER_API_KEYS_FILE")
