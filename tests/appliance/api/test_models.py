"""`GET /v1/models` and `GET /v1/models/{id}`."""

from pathlib import Path

from appliance.config import Config, ModelConfig
from appliance.model_dir import read_manifest
from appliance.service import Service, ServiceStatus
from tests.server import Served


def test_the_served_model_is_listed(served: Served) -> None:
    listed = served.client.get("/v1/models").json()
    assert listed == {
        "object": "list",
        "data": [
            {
                "id": "tiny",
                "object": "model",
                "created": served.service.created,
                "owned_by": "qwen-appliance",
                "max_model_len": served.runner.limits.max_model_len,
            }
        ],
    }
    assert served.client.get("/v1/models/tiny").json() == listed["data"][0]


def test_another_model_is_not_found(served: Served) -> None:
    response = served.client.get("/v1/models/gpt-9")
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "the model 'gpt-9' does not exist here; 'tiny' does",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_an_id_may_hold_slashes(tiny_model_dir: Path) -> None:
    config = Config(model=ModelConfig(name="Qwen/Qwen2.5-0.5B-Instruct"))
    with Served(tiny_model_dir, config=config) as served:
        for path in ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen%2FQwen2.5-0.5B-Instruct"):
            response = served.client.get(f"/v1/models/{path}")
            assert response.status_code == 200
            assert response.json()["id"] == "Qwen/Qwen2.5-0.5B-Instruct"
        assert served.client.get("/v1/models/tiny").status_code == 404
        assert served.chat(model="Qwen/Qwen2.5-0.5B-Instruct", max_tokens=1).status_code == 200
        assert served.chat(model="tiny").status_code == 404


def test_the_model_is_listed_while_it_loads(tiny_model_dir: Path) -> None:
    served = Served(tiny_model_dir, wait=False)
    served.runner.gate.clear()
    with served:
        (model,) = served.client.get("/v1/models").json()["data"]
        assert (model["id"], model["max_model_len"]) == ("tiny", None)
        assert served.service.status is ServiceStatus.LOADING
        served.runner.gate.set()
        assert served.ready.wait(5)


def test_created_and_fingerprint_name_one_build(tiny_model_dir: Path, served: Served) -> None:
    from appliance.startup import system_fingerprint

    manifest = read_manifest(tiny_model_dir)
    assert system_fingerprint(manifest) == served.chat().json()["system_fingerprint"]
    manifest.files["tokenizer.json"] = manifest.files["chat_template.jinja"]
    assert system_fingerprint(manifest) != served.service.system_fingerprint
    assert isinstance(Service("m", "fp_0", max_messages=1).created, int)
