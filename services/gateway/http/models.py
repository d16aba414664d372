"""GET /v1/models and /v1/models/{id}: what the key may use of what is served."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from starlette.types import Receive, Scope, Send

from services.common.http.respond import send_bytes
from services.gateway.http.reply import Reply, maybe
from services.gateway.limits import RequestLimits
from services.gateway.turn.admission import Admission
from services.gateway.turn.amounts import sound_ms
from services.gateway.turn.model import Model, ModelKind


class InputReply(Reply):
    """What a request to the model may hold, at most. Of a conversation, all that the model reads counts. A key may have
    less."""

    body_bytes: int
    text_bytes: int = Field(description="of a request without its media")
    file_bytes: int = Field(description="of a file inside a request")
    images: int = maybe("items of a prompt")
    videos: int = maybe()
    audios: int = maybe("with the sounds of videos that are heard")
    item_bytes: int = maybe("of a file, also of a URL's")
    request_bytes: int = maybe("of all files")
    image_pixels: int = maybe()
    audio_s: float = maybe("seconds of a sound, as far as the model's length holds it")
    recording_s: float = maybe("seconds of a recording that is transcribed in pieces")
    video_s: float = maybe("seconds of a video file")
    video_frame_pixels: int = maybe("of a frame as it is in the file")
    video_frames: int = maybe("that are taken of a video, or sent as one")
    item_tokens: int = maybe("of the prompt")


class ModelReply(Reply):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when the checkpoint was made, seconds since the epoch")
    owned_by: Literal["antiphon"] = "antiphon"
    kind: Literal["instruct", "thinking", "captioner"] = maybe(
        "instruct answers in text and, with voices, in speech; thinking thinks first; captioner takes one audio alone"
    )
    max_model_len: int = Field(description="most tokens of prompt and answer together")
    voices: list[str] = maybe("those that the key may use; absent where the model does not speak for it")
    default_voice: str = maybe("absent where the key may not use it: then name one")
    input: InputReply


class ModelsReply(Reply):
    object: Literal["list"] = "list"
    data: list[ModelReply]


class ListModels:
    def __init__(self, admission: Admission, limits: RequestLimits) -> None:
        self._admission = admission
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = await self._admission.models(scope["state"]["principal"])
        await _send(send, ModelsReply(data=[model_reply(model, self._limits) for model in models]))


class OneModel:
    def __init__(self, admission: Admission, limits: RequestLimits) -> None:
        self._admission = admission
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope["state"]["principal"]
        model = await self._admission.find(principal, scope["path_params"]["id"])
        await _send(send, model_reply(self._admission.shown(principal, model), self._limits))


def model_reply(model: Model, limits: RequestLimits) -> ModelReply:
    """Return OpenAI's fields, its kind and length, what a request may hold and, where it speaks, its voices."""
    reply = ModelReply(
        id=model.name,
        created=model.created_unix_s,
        max_model_len=model.max_model_len,
        input=_input(model, limits),
    )
    if model.kind is not None:
        reply.kind = model.kind.value
    if model.voices:
        reply.voices = list(model.voices)
    if model.default_voice:
        reply.default_voice = model.default_voice
    return reply


def _input(model: Model, limits: RequestLimits) -> InputReply:
    most = dict(model.input_limits or {})
    file_bytes = int(min(limits.max_media_bytes, most.get("item_bytes", limits.max_media_bytes)))
    if most:
        tokens = min(int(most["item_tokens"]), model.max_model_len or int(most["item_tokens"]))
        most["audio_s"] = min(most["audio_s"], sound_ms(tokens) / 1000)
    counts = {f"{modality}s": count for modality, count in (model.max_items or {}).items()}
    if model.kind is ModelKind.CAPTIONER:
        counts = {"images": 0, "videos": 0, "audios": 1}
    held = {"body_bytes": limits.max_body_bytes, "text_bytes": limits.max_text_bytes, "file_bytes": file_bytes}
    return InputReply.model_validate({**held, **counts, **most})


async def _send(send: Send, reply: Reply) -> None:
    await send_bytes(send, 200, reply.model_dump_json(exclude_none=True).encode(), "application/json")
