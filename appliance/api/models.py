"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.api.documented import DOCUMENTED, Documented
from appliance.errors import ModelNotFoundError
from appliance.service import Service


class Model(msgspec.Struct, kw_only=True):
    """A served model; `max_model_len` is its context window in tokens."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "qwen-appliance"
    max_model_len: int | None = None


class ModelList(msgspec.Struct, kw_only=True):
    """The answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]


@get(
    "/v1/models",
    tags=["models"],
    opt={DOCUMENTED: Documented(ModelList)},
    sync_to_thread=False,
)
def list_models(service: NamedDependency[Service]) -> ModelList:
    """The served model."""
    return ModelList(data=[_model(service)])


@get(
    "/v1/models/{model:path}",
    tags=["models"],
    opt={DOCUMENTED: Documented(Model, errors=(ModelNotFoundError,))},
    sync_to_thread=False,
)
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
