"""Checks of an intent against the model's card, before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.common.errors import BadInput, ContextTooLong, no_worker
from services.common.media_counts import MediaItem, check_media_counts
from services.gateway.turn.catalogue import RETRY_AFTER_S
from services.gateway.turn.conversation import AudioPart, ImagePart, Message, TextPart, VideoPart
from services.gateway.turn.intent import FieldNames, Intent
from services.gateway.turn.model import Model, ModelKind


def check_intent(intent: Intent, model: Model, voices: Sequence[str] | None = None) -> None:
    """Raise BadInput, ContextTooLong or Unavailable where the model cannot serve the intent.

    `voices`: those of the model that who asks may use; None = all.
    """
    _check_thinking(intent, model)
    _check_speech(intent, model, model.voices if voices is None else voices)
    _check_media(intent, model)
    _check_tools(intent, model)
    max_tokens = intent.sampling.max_tokens
    if max_tokens is not None and max_tokens > model.max_model_len:
        raise _too_long(model, f"the answer may take {max_tokens}", intent.names.max_tokens)
    missing = model.missing_stages(speech=intent.speech is not None, said=bool(intent.said))
    if missing:
        raise no_worker(*missing, retry_after_s=RETRY_AFTER_S)


def check_length(names: FieldNames, model: Model, prompt_tokens: int, max_tokens: int | None) -> None:
    """Raise ContextTooLong where the prompt, or prompt and longest answer, exceed the model's length."""
    if prompt_tokens >= model.max_model_len:
        raise _too_long(model, f"the prompt holds {prompt_tokens}", names.messages)
    if max_tokens is not None and prompt_tokens + max_tokens > model.max_model_len:
        raise _too_long(
            model, f"the prompt holds {prompt_tokens} and the answer may take {max_tokens}", names.max_tokens
        )


def _too_long(model: Model, what: str, param: str) -> ContextTooLong:
    return ContextTooLong(
        f"This model's maximum context length is {model.max_model_len} tokens, but {what}. Send or ask for less.",
        param=param,
    )


def _check_thinking(intent: Intent, model: Model) -> None:
    thinks, param = model.kind is ModelKind.THINKING, intent.names.thinking
    if intent.thinks is not None and intent.thinks != thinks:
        always = "always" if thinks else "never"
        raise BadInput(
            f"Invalid '{param}': the model '{model.name}' {always} thinks. Leave the field out.", param=param
        )


def _check_speech(intent: Intent, model: Model, voices: Sequence[str]) -> None:
    speech, param = intent.speech, intent.names.voice
    if speech is None:
        return
    if not model.speaks:
        raise BadInput(
            f"The model '{model.name}' answers with text only. Leave audio out.", param=intent.names.modalities
        )
    if speech.voice and speech.voice.lower() not in model.voices:
        raise BadInput(
            f"Invalid '{param}': this model has no voice '{speech.voice[:100]}'. Its voices are: {', '.join(voices)}.",
            param=param,
            code="invalid_voice",
        )


def _check_tools(intent: Intent, model: Model) -> None:
    asked = {
        intent.names.tools: bool(intent.tools),
        intent.structure.path if intent.structure else "": intent.structure is not None,
        intent.names.logprobs: intent.sampling.top_logprobs is not None,
    }
    for param, is_asked in asked.items():
        if is_asked and not model.structures_answers:
            raise BadInput(f"Invalid '{param}': the model's workers do not serve it. Leave it out.", param=param)
    if intent.tools and model.tool_call_token_id is None:
        param = intent.names.tools
        raise BadInput(f"Invalid '{param}': the model '{model.name}' calls no tools. Leave them out.", param=param)


def _check_media(intent: Intent, model: Model) -> None:
    for message in intent.messages:
        for part in message.parts:
            # The model is not trained on it, and the talker ignores it.
            if message.role not in ("user", "tool") and not isinstance(part, TextPart):
                raise BadInput(
                    f"Invalid '{part.path}': only messages with role 'user' or 'tool' can hold media.", param=part.path
                )
    if model.max_items is not None:
        check_media_counts(_items(intent.messages), model.max_items, use_audio_in_video=intent.use_audio_in_video)
    if model.kind is ModelKind.CAPTIONER:
        _check_caption(intent, model)


def _items(messages: Sequence[Message]) -> Iterator[MediaItem]:
    for message in messages:
        for part in message.parts:
            match part:
                case TextPart():
                    pass
                case ImagePart():
                    yield MediaItem("image", part.path)
                case AudioPart():
                    yield MediaItem("audio", part.path)
                case VideoPart():
                    yield MediaItem("video", part.path, has_sound=part.is_file, use_audio=part.use_audio)


def _check_caption(intent: Intent, model: Model) -> None:
    parts = [part for message in intent.messages for part in message.parts]
    if len(parts) != 1 or not isinstance(parts[0], AudioPart):
        raise BadInput(
            f"The model '{model.name}' takes exactly one audio and no text. Send one user message with one audio part.",
            param=intent.names.messages,
        )
