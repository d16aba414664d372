"""Finds the model that a request names, and checks a turn against its card before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.errors import BadInput, ContextTooLong, NotFound, no_worker
from services.common.media_counts import check_media_counts
from services.common.queues.tickets import ServedModel
from services.common.stages import PREPROCESS, TALKER, THINKER
from services.gateway.turn.request import SpeechOptions

_RETRY_AFTER_S = 2.0


def speaks(card: common_pb2.ModelCard) -> bool:
    return card.kind == common_pb2.MODEL_KIND_INSTRUCT and len(card.voices) > 0


def missing_stages(model: ServedModel, *, speech: bool) -> frozenset[str]:
    """Return the needed stages that have no live worker and cannot be started on demand."""
    return needed_stages(speech=speech) - model.stages - model.asleep


def needed_stages(*, speech: bool) -> frozenset[str]:
    return frozenset({PREPROCESS, THINKER, TALKER} if speech else {PREPROCESS, THINKER})


def is_whole(model: ServedModel) -> bool:
    """Return whether each stage of this kind of model has a live worker, or gets one on demand."""
    return not missing_stages(model, speech=speaks(model.card))


class Catalogue:
    """Finds models by name. It remembers names, so that a model without live workers is not called unknown."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}

    def find(self, served: Mapping[str, ServedModel], name: str | None) -> ServedModel:
        """Return the model; `name` None = the only one that is served. Raise NotFound, Unavailable or BadInput."""
        for served_name in served:
            self._known[served_name] = None
        if name is None:
            if len(served) == 1:
                return next(iter(served.values()))
            if served:
                raise BadInput("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
        elif name in served:
            return served[name]
        elif served and name not in self._known:
            raise NotFound(f"The model '{name[:200]}' does not exist.", param="model", code="model_not_found")
        raise no_worker(retry_after_s=_RETRY_AFTER_S)


def check_turn(
    model: ServedModel,
    messages: Sequence[preprocess_pb2.Message],
    speech: SpeechOptions | None,
    max_tokens: int | None,
    *,
    use_audio_in_video: bool,
    voice_param: str,
    modalities_param: str,
) -> None:
    """Check a turn against the model's card and stages. Raise BadInput, ContextTooLong or Unavailable."""
    card = model.card
    if speech is not None and not speaks(card):
        raise BadInput(f"The model '{card.name}' answers with text only. Leave audio out.", param=modalities_param)
    if speech is not None and speech.voice and speech.voice.lower() not in card.voices:
        raise BadInput(
            f"Invalid '{voice_param}': this model has no voice '{speech.voice[:100]}'. "
            f"Its voices are: {', '.join(card.voices)}.",
            param=voice_param,
            code="invalid_voice",
        )
    check_messages(messages)
    check_media_counts(messages, card, use_audio_in_video=use_audio_in_video)
    if card.kind == common_pb2.MODEL_KIND_CAPTIONER:
        _check_caption(card, messages)
    if max_tokens is not None and max_tokens > card.max_model_len:
        raise _too_long(card, f"the answer may take {max_tokens}", "max_tokens")
    missing = missing_stages(model, speech=speech is not None)
    if missing:
        raise no_worker(*missing, retry_after_s=_RETRY_AFTER_S)


def check_messages(messages: Sequence[preprocess_pb2.Message]) -> None:
    """Raise BadInput for media outside user messages. The model is not trained on it, and the talker ignores it."""
    for message in messages:
        if message.role != "user":
            for part in message.parts:
                if part.WhichOneof("content") != "text":
                    raise BadInput(
                        f"Invalid '{part.path}': only messages with role 'user' can hold media.", param=part.path
                    )


def _check_caption(card: common_pb2.ModelCard, messages: Sequence[preprocess_pb2.Message]) -> None:
    kinds = [part.WhichOneof("content") for message in messages for part in message.parts]
    if kinds != ["audio"]:
        raise BadInput(
            f"The model '{card.name}' takes exactly one audio and no text. Send one user message with one audio part.",
            param="messages",
        )


def check_length(card: common_pb2.ModelCard, prompt_tokens: int, max_tokens: int | None) -> None:
    """Raise ContextTooLong where the prompt, or prompt and longest answer, exceed the model's length."""
    if prompt_tokens >= card.max_model_len:
        raise _too_long(card, f"the prompt holds {prompt_tokens}", "messages")
    if max_tokens is not None and prompt_tokens + max_tokens > card.max_model_len:
        raise _too_long(card, f"the prompt holds {prompt_tokens} and the answer may take {max_tokens}", "max_tokens")


def _too_long(card: common_pb2.ModelCard, what: str, param: str) -> ContextTooLong:
    return ContextTooLong(
        f"This model's maximum context length is {card.max_model_len} tokens, but {what}. Send or ask for less.",
        param=param,
    )
