"""The doctor on a real systemd: what it sees, and that what it advises helps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.model_dir import MODEL_BIN
from tests.box.image import VENV
from tests.box.installed import MODEL, SERVICE, STAGE, TUNE, Installed

pytestmark = [pytest.mark.box, pytest.mark.model, pytest.mark.timeout(900)]

DOCTOR = (f"/{VENV}/bin/qwen-appliance", "doctor", "--json")
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


def doctor(service: Installed, *before: str, host: str = "127.0.0.1") -> dict[str, Any]:
    ended = service.box.run(*before, *DOCTOR, "--host", host, check=False)
    assert ended.stderr == ""
    report: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == (8 if report["verdict"] == "problem" else 0)
    assert [one for one in report["findings"] if one["id"].endswith(".failed")] == []
    return report


def problems(report: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["remedy"] for one in report["findings"] if one["level"] == "problem"}


def test_a_box_that_serves_is_well_whoever_asks(service: Installed) -> None:
    assert service.start() == ""
    for before in ((), AS_NOBODY):
        report = doctor(service, *before)
        assert problems(report) == {}
        facts = report["facts"]
        assert facts["units"]["units"][SERVICE]["active"] == "active"
        assert (facts["service"]["health"], facts["service"]["status"]) == ("ours", "ready")
        assert (facts["model"]["verified"], facts["model"]["staged"]) == ("sha256", True)
        assert facts["clock"]["governor"] == {"now": ["performance"] * 4, "wished": "performance"}
        assert facts["clock"]["service_cpus"] == facts["cpu"]["used"]
        assert facts["decode"]["floor_ms"] > 0


def test_keys_are_where_only_root_looks(service: Installed) -> None:
    store = service.box.path("/etc/credstore")
    assert "service.keys" in problems(doctor(service, host="0.0.0.0"))
    store.mkdir(mode=0o700, exist_ok=True)
    try:
        service.box.run(
            *(DOCTOR[0], "key", "add", "laptop"),
            *("--file", "/etc/credstore/qwen-appliance.api-keys"),
        )
        seen = doctor(service, host="0.0.0.0")
        unseen = doctor(service, *AS_NOBODY, host="0.0.0.0")
    finally:
        for path in store.iterdir():
            path.unlink()
    assert (problems(seen), seen["facts"]["service"]["api_keys"]) == ({}, 1)
    assert (problems(unseen), unseen["facts"]["service"]["api_keys"]) == ({}, None)


def test_what_it_advises_helps(service: Installed) -> None:
    assert service.start() == ""
    governor = service.box.fake / "cpu/cpufreq/policy1/scaling_governor"
    governor.write_text("powersave\n")
    found = problems(doctor(service))
    assert found == {"clock.governor": f"sudo systemctl restart {TUNE}"}
    service.box.systemctl("restart", TUNE)
    assert problems(doctor(service)) == {}
    assert governor.read_text() == "performance\n"
    assert service.state() == "active"


def test_a_flipped_byte_is_why_it_does_not_start(service: Installed) -> None:
    weights = service.box.path(f"/{MODEL}/{MODEL_BIN}")
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
        assert service.start() != ""
        report = doctor(service)
    finally:
        weights.write_bytes(whole)
    assert {"model.dir", f"units.{STAGE}"} <= problems(report).keys()
    texts = {one["id"]: one["text"] for one in report["findings"]}
    assert f"{MODEL_BIN} has another sha256" in texts["model.dir"]
    assert "port 8000 is free" in texts["service.port"]


def test_a_stopped_service_is_a_note(service: Installed) -> None:
    report = doctor(service)
    assert problems(report) == {}
    levels = {one["id"]: one["level"] for one in report["findings"]}
    assert (levels[f"units.{SERVICE}"], levels["clock.governor"]) == ("note", "ok")
