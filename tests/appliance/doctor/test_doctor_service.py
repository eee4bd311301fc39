"""Model, calibration, units, keys and address under the doctor's eyes."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.access.key_file import make_key, write_keys
from appliance.config import ServerConfig
from appliance.doctor.health import ask
from appliance.doctor.port_owner import port_owner
from appliance.doctor.units import SERVICE, SOCKET, STAGE
from appliance.errors import ConfigError
from appliance.model_dir import MANIFEST, MODEL_BIN, Source, read_manifest
from appliance.tune.calibration import Calibration, write_calibration
from appliance.tune.identity import identity_of
from tests.appliance.doctor.fake_box import FakeBox
from tests.appliance.doctor.health_server import answering
from tests.appliance.doctor.manifests import change
from tests.fake_machine import write
from tests.server import Served


class TestModel:
    def test_what_it_is_and_that_it_is_whole(self, n100: FakeBox, model: Path) -> None:
        found = n100.examine()
        assert found["model.dir"].text.endswith("0 MB, every sha256 right")
        assert found["model.name"].text == "tiny, int8, symmetric, per channel"
        assert found["model.licence"].text == "licence apache-2.0, from dir:tiny"
        assert found["model.quality"].text == (
            "quality gate: 96.0% the same likeliest token (at least 93%), "
            "mean KL 0.0050 (at most 0.02)"
        )
        assert found.facts["model"]["verified"] == "sha256"
        assert found.facts["model"]["manifest"]["quality"]["num_positions"] == 1133
        assert n100.examine(checksums=False).facts["model"]["verified"] == "sizes"

    def test_a_flipped_byte_is_named_and_undone_by_the_previous_model(
        self, n100: FakeBox, model: Path
    ) -> None:
        (model / MODEL_BIN).write_bytes(b"\1" + b"\0" * 15)
        finding = n100.examine()["model.dir"]
        assert finding.level.value == "problem"
        assert f"{MODEL_BIN} has another sha256" in finding.text
        assert ".previous" not in finding.remedy
        model.with_name("tiny.previous").mkdir()
        assert "go back to" in n100.examine()["model.dir"].remedy

    def test_a_flipped_manifest(self, n100: FakeBox, model: Path) -> None:
        text = (model / MANIFEST).read_text()
        (model / MANIFEST).write_text(text.replace('"tiny"', '"tiny', 1))
        found = n100.examine()
        assert found.problems() == ["model.dir"]
        assert "cannot be read" in found["model.dir"].text
        assert found.facts["model"]["manifest"] is None
        assert found.facts["calibration"]["state"] == "no model"

    def test_a_model_that_is_not_there(self, n100: FakeBox, tmp_path: Path) -> None:
        n100.settings["model.dir"] = str(tmp_path / "none")
        found = n100.examine()
        assert found.problems() == ["model.dir"]
        assert "build-model.sh" in found["model.dir"].remedy

    def test_no_model_is_a_problem_where_the_service_is_installed(
        self, n100: FakeBox, virtual: FakeBox
    ) -> None:
        for box in (n100, virtual):
            del box.settings["model.dir"]
        assert n100.examine().problems() == ["model.dir"]
        assert virtual.examine().level("model.dir") == "note"

    def test_a_gate_that_was_not_passed(self, n100: FakeBox, model: Path) -> None:
        quality = read_manifest(model).quality
        assert quality is not None
        change(model, quality=dataclasses.replace(quality, mean_kl=0.5))
        assert n100.examine().problems() == ["model.quality"]
        change(model, quality=None, source=Source("dir:x", "sha256:0"))
        found = n100.examine()
        assert (found.level("model.quality"), found.level("model.licence")) == ("note", "note")

    def test_a_model_from_the_future(self, n100: FakeBox, model: Path) -> None:
        assert "model.openvino" not in n100.examine()
        change(model, versions={"openvino": "2099.1.0"})
        assert "2099.1.0" in n100.examine()["model.openvino"].text

    def test_the_ram_disk_holds_another_model(self, n100: FakeBox, model: Path) -> None:
        manifest = (model / MANIFEST).read_text()
        write(n100.root, {f"run/qwen-appliance/model/current/{MANIFEST}": manifest})
        assert n100.examine().facts["model"]["staged"] is True
        change(model, created="2026-02-02T00:00:00+00:00")
        found = n100.examine()
        assert found.problems() == ["model.staged"]
        assert STAGE in found["model.staged"].remedy


class TestCalibration:
    def calibrate(self, box: FakeBox, model: Path, openvino: str | None = None) -> Path:
        here = identity_of(
            read_manifest(model), "stateful", cpuinfo=box.root / "proc/cpuinfo", num_cpus=4
        )
        if openvino:
            here = type(here)(here.cpu, openvino, here.model, here.kv_cache)
        path = box.root / "var/cache/qwen-appliance/calibration-tiny-stateful.json"
        write_calibration(
            path,
            Calibration(
                made_for=here,
                created="2026-11-20T10:00:00+00:00",
                settings={"engine.max_draft_tokens": 5},
                verify_cost={1: 1.0},
                change_cost=0.1,
                trials=[],
                not_reached=[],
            ),
        )
        return path

    def test_one_made_for_this_box(self, n100: FakeBox, model: Path) -> None:
        path = self.calibrate(n100, model)
        found = n100.examine()
        assert found["calibration.file"].text == (
            "calibration of 2026-11-20: engine.max_draft_tokens = 5"
        )
        assert found.facts["calibration"] == {
            "path": str(path),
            "state": "valid",
            "settings": {"engine.max_draft_tokens": 5},
        }

    def test_one_made_for_another_openvino_is_stale(self, n100: FakeBox, model: Path) -> None:
        self.calibrate(n100, model, openvino="2020.1")
        found = n100.examine()
        assert found.facts["calibration"]["state"] == "stale"
        assert found.level("calibration.file") == "note"
        assert "made for openvino 2020.1" in found["calibration.file"].text

    def test_a_corrupt_one_is_stale_and_none_is_missing(self, n100: FakeBox, model: Path) -> None:
        assert n100.examine().facts["calibration"]["state"] == "missing"
        self.calibrate(n100, model).write_text("{")
        assert n100.examine().facts["calibration"]["state"] == "stale"


class TestUnits:
    def test_a_service_that_failed(self, n100: FakeBox) -> None:
        n100.tools.units[SERVICE].update(
            ActiveState="failed", SubState="failed", Result="exit-code", NRestarts="6"
        )
        found = n100.examine()
        assert found.problems() == [f"units.{SERVICE}"]
        assert "exit-code" in found[f"units.{SERVICE}"].text
        assert "journalctl" in found[f"units.{SERVICE}"].remedy
        assert "restarted 6 times" in found["units.restarts"].text

    def test_a_service_that_starts_or_is_stopped(self, n100: FakeBox) -> None:
        n100.tools.units[SERVICE].update(ActiveState="activating", StatusText="loading the model")
        assert "loading the model" in n100.examine()[f"units.{SERVICE}"].text
        n100.tools.units[SERVICE].update(ActiveState="inactive", UnitFileState="disabled")
        found = n100.examine()
        assert "systemctl start" in found[f"units.{SERVICE}"].remedy
        assert found.level("units.boot") == "note"

    def test_files_changed_after_they_were_read(self, n100: FakeBox) -> None:
        n100.tools.units[STAGE]["NeedDaemonReload"] = "yes"
        assert n100.examine()["units.reload"].remedy == "sudo systemctl daemon-reload"

    def test_nothing_is_installed(self, virtual: FakeBox) -> None:
        found = virtual.examine()
        assert found.level("units.installed") == "note"
        assert found.facts["units"]["units"][SERVICE]["load"] == "not-found"

    def test_no_systemd_at_all(self, virtual: FakeBox) -> None:
        (virtual.root / "run/systemd/system").rmdir()
        found = virtual.examine()
        assert found.facts["units"] == {"systemd": False, "units": {}}
        assert found.level("units.systemd") == "note"

    def test_a_manager_that_does_not_answer(self, virtual: FakeBox) -> None:
        def silent(*command: str) -> str:
            raise OSError("Failed to connect to bus")

        virtual.tools.run = silent  # type: ignore[method-assign]
        found = virtual.examine()
        assert "systemctl does not answer" in found["units.systemd"].text
        assert "Failed to connect to bus" in found["files.unreadable"].text
        assert found.problems() == []

    def test_a_desktop_beside_it(self, n100: FakeBox) -> None:
        assert "units.desktop" not in n100.examine()
        n100.tools.active.add("display-manager.service")
        assert n100.examine().level("units.desktop") == "note"


class TestKeys:
    def test_only_this_machine_needs_none(self, n100: FakeBox) -> None:
        assert n100.examine().level("service.keys") == "ok"

    def test_beyond_this_machine_one_is_needed(self, n100: FakeBox) -> None:
        n100.settings["server.host"] = "0.0.0.0"
        found = n100.examine()
        assert found.problems() == ["service.keys"]
        assert "--file /etc/credstore/qwen-appliance.api-keys" in found["service.keys"].remedy
        n100.settings["server.allow_no_key"] = "true"
        assert "everybody" in n100.examine()["service.keys"].text

    def test_the_units_keys_are_found(self, n100: FakeBox) -> None:
        n100.settings["server.host"] = "0.0.0.0"
        path = n100.root / "etc/credstore/qwen-appliance.api-keys"
        path.parent.mkdir(parents=True)
        key, record = make_key("laptop")
        write_keys(path, [record])
        found = n100.examine()
        assert found["service.keys"].text == f"API keys in {path}: laptop"
        assert key not in str(found.facts)
        assert found.facts["service"]["api_keys"] == 1

    @pytest.mark.parametrize(
        ("text", "told"), [("", "holds no key"), ("nonsense\n", "line 1 is no")]
    )
    def test_a_file_that_lets_nobody_in(
        self, n100: FakeBox, tmp_path: Path, text: str, told: str
    ) -> None:
        (tmp_path / "keys").write_text(text)
        n100.settings["server.api_keys_file"] = str(tmp_path / "keys")
        found = n100.examine()
        assert found.problems() == ["service.keys"]
        assert told in found["service.keys"].text


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A listener that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class TestAddress:
    def test_a_service_that_is_ready(self, n100: FakeBox, tiny_model_dir: Path) -> None:
        with Served(tiny_model_dir) as served:
            n100.settings["server.port"] = served.url.rpartition(":")[2].partition("/")[0]
            found = n100.examine()
        assert found.level("service.health") == "ok"
        assert found.facts["service"]["status"] == "ready"
        assert "/health/ready answers 200 ready" in found["service.health"].text

    @pytest.mark.parametrize(
        ("status", "level"), [("loading", "note"), ("draining", "note"), ("failed", "problem")]
    )
    def test_a_service_that_is_not(self, n100: FakeBox, status: str, level: str) -> None:
        with answering(503, {"status": status}) as port:
            n100.settings["server.port"] = str(port)
            assert n100.examine().level("service.health") == level

    @pytest.mark.parametrize("told", [{"status": "fine"}, ["ready"], "ready"])
    def test_another_program_has_the_port(self, virtual: FakeBox, told: object) -> None:
        with answering(200, told) as port:
            virtual.settings["server.port"] = str(port)
            found = virtual.examine()
            assert port_owner(Path("/"), port)
        assert found.problems() == ["service.port"]
        assert f"port {port} is taken by another program" in found["service.port"].text

    def test_a_listener_is_found_by_name(self, taken: socket.socket) -> None:
        owner = port_owner(Path("/"), taken.getsockname()[1])
        assert owner is not None
        assert "process " in owner
        assert port_owner(Path("/proc/self/nothing"), 1) is None

    def test_the_service_runs_but_nobody_answers(self, n100: FakeBox, taken: socket.socket) -> None:
        port = taken.getsockname()[1]
        taken.close()
        n100.settings["server.port"] = str(port)
        found = n100.examine()
        assert found.problems() == ["service.health"]
        n100.tools.units.clear()
        assert n100.examine().level("service.port") == "ok"

    def test_an_address_that_is_not_ours(self, virtual: FakeBox) -> None:
        virtual.settings.update({"server.host": "192.0.2.1", "server.port": "8123"})
        virtual.settings["server.allow_no_key"] = "true"
        assert "service.port" in virtual.examine().problems()

    @pytest.mark.parametrize("host", ["a..b", "no such host", "x\ny"])
    def test_an_address_that_is_none(self, virtual: FakeBox, host: str) -> None:
        virtual.settings.update({"server.host": host, "server.port": "8123"})
        assert "service.host" in virtual.examine().problems()

    def test_a_waiting_socket_is_not_woken(self, n100: FakeBox, taken: socket.socket) -> None:
        n100.settings["server.port"] = str(taken.getsockname()[1])
        n100.tools.units[SERVICE]["ActiveState"] = "inactive"
        n100.tools.units[SOCKET]["ActiveState"] = "active"
        found = n100.examine()
        assert "would start it" in found["service.health"].text
        taken.setblocking(False)
        with pytest.raises(BlockingIOError):
            taken.accept()

    def test_a_listener_that_says_nothing(
        self, taken: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("appliance.doctor.health._TIMEOUT_S", 0.2)
        health = ask(ServerConfig(port=taken.getsockname()[1]))
        assert health.kind == "silent"


class TestSettings:
    def test_a_wrong_one_is_a_problem(self, virtual: FakeBox) -> None:
        virtual.config_fault = ConfigError("server.port", "x", "a number", "environment X")
        found = virtual.examine()
        assert found.problems() == ["service.settings"]
        assert "server.port = 'x'" in found["service.settings"].text
