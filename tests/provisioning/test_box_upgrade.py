"""An upgrade on a file tree: through, back, and broken off in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provisioning.box.models import Models, digest
from provisioning.box.places import Places
from provisioning.box.upgrade import Upgrade

CONFIG = "/etc/qwen-appliance/config.yaml"
NEW_FILE = "/etc/systemd/system/x.service.d/new.conf"
FILES = (CONFIG, NEW_FILE)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A box that serves release `r1` and model `M`."""
    places = Places(tmp_path)
    for release in ("r1", "r2"):
        (places.releases / release / "venv").mkdir(parents=True)
    places.models.mkdir(parents=True)
    (tmp_path / "etc/qwen-appliance").mkdir(parents=True)
    places.venv.symlink_to("releases/r1/venv")
    config = places.at(CONFIG)
    config.write_text("old")
    config.chmod(0o640)
    model(places.models / "M", "m1")
    model(places.models / "M.previous", "m0")
    upgrade = Upgrade(places)
    places.served.write_text(json.dumps({"release": "r1", "model": "M"}))
    assert upgrade.roll_back() is None
    return places


def model(directory: Path, text: str) -> None:
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(text)


def tree(root: Path) -> dict[str, str]:
    """Every file and link, with what is in it."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else f"{path.stat().st_mode & 0o777:o} {path.read_text()}"
        for path in root.rglob("*")
        if path.is_file() or path.is_symlink()
    }


def change_everything(places: Places, upgrade: Upgrade, name: str = "M") -> None:
    """As the role does, between `begin` and `commit`."""
    model(places.incoming / name, "m2")
    upgrade.begin("r2", name, FILES)
    places.at(CONFIG).write_text("new")
    places.at(CONFIG).chmod(0o600)
    places.at(NEW_FILE).parent.mkdir(parents=True, exist_ok=True)
    places.at(NEW_FILE).write_text("new")
    places.venv.unlink()
    places.venv.symlink_to("releases/r2/venv")
    upgrade.publish_model(name)


@pytest.mark.parametrize("name", ["M", "Other"])
def test_what_fails_is_put_back_to_the_last_byte(places: Places, name: str) -> None:
    before = tree(places.root)
    upgrade = Upgrade(places)
    change_everything(places, upgrade, name)
    assert (places.models / name / "manifest.json").read_text() == "m2"
    assert upgrade.roll_back() == "r1"
    assert tree(places.root) == before
    assert not (places.releases / "r2").exists()


def test_a_second_attempt_falls_back_to_what_served_before_the_first(places: Places) -> None:
    """The first was broken off: its journal is there, and half of it is done."""
    before = tree(places.root)
    change_everything(places, Upgrade(places))
    (places.releases / "r3").mkdir()
    again = Upgrade(places)
    again.begin("r3", "M", FILES)
    places.at(CONFIG).write_text("newer")
    assert again.roll_back() == "r1"
    assert tree(places.root) == before
    assert {path.name for path in places.releases.iterdir()} == {"r1"}


def test_going_back_by_hand_in_vain_leaves_that_release_where_it_was(places: Places) -> None:
    upgrade = Upgrade(places)
    change_everything(places, upgrade)
    upgrade.commit("r2", "M")
    before = tree(places.root)
    upgrade.begin("r1", "M", FILES)
    assert upgrade.roll_back() == "r2"
    assert tree(places.root) == before
    assert {path.name for path in places.releases.iterdir()} == {"r1", "r2"}


def test_broken_off_while_models_change_places(places: Places) -> None:
    before = tree(places.root)
    upgrade = Upgrade(places)
    model(places.incoming / "M", "m2")
    upgrade.begin("r2", "M", FILES)
    # As far as `publish` had come: the old one is out, the new one not yet called previous.
    (places.models / "M.previous").rename(places.models / ".older-M")
    (places.models / "M").rename(places.incoming / "swap")
    (places.incoming / "M").rename(places.models / "M")
    (places.incoming / "swap").rename(places.incoming / "M")
    assert upgrade.roll_back() == "r1"
    assert tree(places.root) == before


def test_a_first_attempt_leaves_nothing_but_the_release(tmp_path: Path) -> None:
    places = Places(tmp_path)
    (places.releases / "r1" / "venv").mkdir(parents=True)
    model(places.incoming / "M", "m1")
    upgrade = Upgrade(places)
    upgrade.begin("r1", "M", FILES)
    places.venv.symlink_to("releases/r1/venv")
    places.at(CONFIG).parent.mkdir(parents=True)
    places.at(CONFIG).write_text("new")
    upgrade.publish_model("M")
    assert upgrade.roll_back() is None
    assert tree(tmp_path) == {} and (places.releases / "r1").exists()


def test_what_is_through_keeps_the_one_before_and_no_others(places: Places) -> None:
    upgrade = Upgrade(places)
    change_everything(places, upgrade)
    (places.releases / "r0.tar").touch()
    upgrade.commit("r2", "M")
    assert json.loads(places.served.read_text()) == {
        "release": "r2",
        "previous_release": "r1",
        "model": "M",
        "previous_model": None,
    }
    assert digest(places.models / "M.previous") and not places.journal.exists()
    assert (places.models / "M.previous" / "manifest.json").read_text() == "m1"
    assert sorted(path.name for path in places.models.iterdir()) == ["M", "M.previous"]
    for number, name in ((3, "N"), (4, "O")):
        (places.releases / f"r{number}").mkdir()
        model(places.incoming / name, name)
        upgrade.begin(f"r{number}", name, FILES)
        upgrade.publish_model(name)
        upgrade.commit(f"r{number}", name)
    assert {path.name for path in places.releases.iterdir()} == {"r3", "r4"}
    assert sorted(path.name for path in places.models.iterdir()) == ["N", "O"]


def test_nothing_changes_before_it_is_written_down(places: Places) -> None:
    model(places.incoming / "M", "m2")
    with pytest.raises(AssertionError):
        Upgrade(places).publish_model("M")
    Models(places).forget_incoming()
    assert not places.incoming.exists()
