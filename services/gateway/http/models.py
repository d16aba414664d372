"""GET /v1/models and /v1/models/{id}: what the key may use of what is served."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from starlette.types import Receive, Scope, Send

from services.common.http.respond import send_bytes
from services.gateway.http.reply import Reply, maybe
from services.gateway.turn.admission import Admission
from services.gateway.turn.model import Model


class ModelReply(Reply):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when the checkpoint was made, seconds since the epoch")
    owned_by: Literal["antiphon"] = "antiphon"
    max_model_len: int = Field(description="most tokens of prompt and answer together")
    voices: list[str] = maybe("those that the key may use; absent where the model does not speak for it")
    default_voice: str = maybe("absent where the key may not use it: then name one")


class ModelsReply(Reply):
    object: Literal["list"] = "list"
    data: list[ModelReply]


class ListModels:
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = await self._admission.models(scope["state"]["principal"])
        await _send(send, ModelsReply(data=list(map(model_reply, models))))


class OneModel:
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope["state"]["principal"]
        model = await self._admission.find(principal, scope["path_params"]["id"])
        await _send(send, model_reply(self._admission.shown(principal, model)))


def model_reply(model: Model) -> ModelReply:
    """Return OpenAI's four fields, the model's length and, where it speaks, its voices."""
    reply = ModelReply(id=model.name, created=model.created_unix_s, max_model_len=model.max_model_len)
    if model.voices:
        reply.voices = list(model.voices)
    if model.default_voice:
        reply.default_voice = model.default_voice
    return reply


async def _send(send: Send, reply: Reply) -> None:
    await send_bytes(send, 200, reply.model_dump_json(exclude_none=True).encode(), "application/json")
