"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Scope, Send

from services.common.queues.tickets import ServedModel
from services.gateway.directory import ModelDirectory
from services.gateway.http.respond import send_json
from services.gateway.turn.catalogue import Catalogue


class ListModels:
    def __init__(self, directory: ModelDirectory) -> None:
        self._directory = directory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = await self._directory.models()
        await send_json(send, 200, {"object": "list", "data": [model_object(m) for m in models.values()]})


class OneModel:
    def __init__(self, directory: ModelDirectory, catalogue: Catalogue) -> None:
        self._directory = directory
        self._catalogue = catalogue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self._catalogue.find(await self._directory.models(), scope["path_params"]["id"])
        await send_json(send, 200, model_object(model))


def model_object(model: ServedModel) -> dict[str, Any]:
    """Return OpenAI's four fields, the model's length and, where it speaks, its voices."""
    card = model.card
    described: dict[str, Any] = {
        "id": card.name,
        "object": "model",
        "created": card.created_unix_s,
        "owned_by": "antiphon",
        "max_model_len": card.max_model_len,
    }
    if card.voices:
        described |= {"voices": list(card.voices), "default_voice": card.default_voice}
    return described
