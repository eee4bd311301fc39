"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.api.schemas import Model, ModelList
from appliance.errors import ModelNotFoundError
from appliance.service import Service


@get("/v1/models", tags=["models"], sync_to_thread=False)
def list_models(service: NamedDependency[Service]) -> ModelList:
    """The served model."""
    return ModelList(data=[_model(service)])


@get("/v1/models/{model:path}", tags=["models"], sync_to_thread=False)
def get_model(model: FromPath[str], service: NamedDependency[Service]) -> Model:
    """The served model by its id, which may hold slashes; 404 for any other."""
    name = model.lstrip("/")
    if name != service.model_name:
        raise ModelNotFoundError(name, service.model_name)
    return _model(service)


def _model(service: Service) -> Model:
    completer = service.completer
    return Model(
        id=service.model_name,
        created=service.created,
        max_model_len=completer.max_model_len if completer else None,
    )
