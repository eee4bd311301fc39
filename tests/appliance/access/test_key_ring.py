"""Which key counts: now, after the file has changed, after it has gone."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from appliance.access.key_file import KeyRecord, digest_of, write_keys
from appliance.access.key_ring import KeyRing
from appliance.errors import ConfigError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def store(path: Path, **keys: str) -> None:
    write_keys(path, [KeyRecord(name, digest_of(key), "") for name, key in keys.items()])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store(tmp_path / "api-keys", ann="sk-ann", bob="sk-bob")
    return tmp_path / "api-keys"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_key_is_somebodys_or_nobodys(path: Path) -> None:
    ring = KeyRing(path)
    assert (ring.name_of("sk-ann"), ring.name_of("sk-bob")) == ("ann", "bob")
    for wrong in ("", "sk-", "sk-an", "sk-ann ", digest_of("sk-ann"), "ключ", "\udcff"):
        assert ring.name_of(wrong) is None
    assert len(ring) == 2


def test_a_change_is_seen_within_a_second(path: Path, clock: Clock) -> None:
    ring = KeyRing(path, clock)
    store(path, bob="sk-bob", eve="sk-eve")
    clock.now += 0.9
    assert (ring.name_of("sk-ann"), ring.name_of("sk-eve")) == ("ann", None)
    clock.now += 0.2
    assert (ring.name_of("sk-ann"), ring.name_of("sk-eve")) == (None, "eve")


def test_reload_sees_it_at_once(path: Path, clock: Clock) -> None:
    ring = KeyRing(path, clock)
    store(path, eve="sk-eve")
    ring.reload()
    assert (ring.name_of("sk-bob"), ring.name_of("sk-eve")) == (None, "eve")


def test_a_file_that_did_not_change_is_not_read(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(path, clock)
    caplog.set_level(logging.INFO)
    clock.now += 2
    ring.name_of("sk-ann")
    assert not caplog.records


def test_a_mistake_in_the_file_changes_nothing(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(path, clock)
    path.write_text("nonsense\n")
    clock.now += 2
    assert ring.name_of("sk-ann") == "ann"
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "line 1" in record.getMessage()
    clock.now += 2
    assert ring.name_of("sk-ann") == "ann"
    assert len(caplog.records) == 1, "told once"


def test_without_its_file_nobody_comes_in_until_it_is_back(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(path, clock)
    os.rename(path, path.with_suffix(".away"))
    clock.now += 2
    assert ring.name_of("sk-ann") is None
    assert "is gone" in caplog.text
    os.rename(path.with_suffix(".away"), path)
    clock.now += 2
    assert ring.name_of("sk-ann") == "ann"


def test_a_file_that_was_emptied_lets_nobody_in(path: Path, clock: Clock) -> None:
    ring = KeyRing(path, clock)
    write_keys(path, [])
    clock.now += 2
    assert ring.name_of("sk-ann") is None


@pytest.mark.parametrize(
    ("text", "says"), [(None, "No such file"), ("", "holds no key"), ("x\n", "line 1")]
)
def test_what_cannot_be_used_from_the_beginning(
    tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "api-keys"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        KeyRing(path)
    assert (caught.value.key, caught.value.value) == ("server.api_keys_file", str(path))
