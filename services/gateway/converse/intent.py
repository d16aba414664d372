"""From a checked ConverseStart to an Intent."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from antiphon.v1 import common_pb2, gateway_pb2, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.errors import AntiphonError
from services.gateway.http.chat.structure.translate import AskedForm
from services.gateway.http.chat.translate import check_past_calls
from services.gateway.turn.conversation import (
    AudioPart,
    FileSource,
    ImagePart,
    InlineSource,
    MediaSource,
    Message,
    Part,
    TextPart,
    ToolCall,
    UrlSource,
    VideoPart,
)
from services.gateway.turn.held_media import HeldMedia
from services.gateway.turn.intent import FieldNames, Intent, Sampling, SpeechOptions, SpeechSampling

_NAMES = FieldNames(
    voice="voice",
    modalities="output_modalities",
    max_tokens="sampling.max_tokens",
    logprobs="sampling.top_logprobs",
)


def intent_from(
    start: gateway_pb2.ConverseStart,
    asked: AskedForm,
    messages: Sequence[Message],
    inline: HeldMedia,
    arrived_s: float,
    timeout_s: float | None,
) -> Intent:
    """`timeout_s`: the call's own deadline; None = it has none."""
    return Intent(
        names=_NAMES,
        arrived_s=arrived_s,
        messages=messages,
        inline=inline,
        model=start.model or None,
        use_audio_in_video=start.use_audio_in_video,
        sampling=_sampling(start.sampling),
        speech=_speech(start),
        tools=asked.tools,
        structure=asked.structure,
        drops_oldest=start.drops_oldest,
        priority=start.priority,
        affinity=start.conversation_id,
        timeout_s=timeout_s,
    )


def messages_from(start: gateway_pb2.ConverseStart) -> list[Message]:
    """Return the conversation. Raise BadInput where the arguments of a call in it are no object."""
    messages = [_message(message, f"messages[{i}]") for i, message in enumerate(start.messages)]
    check_past_calls(messages, "arguments_json")
    return messages


@contextmanager
def named_fields() -> Generator[None]:
    """Give errors the field's name as ConverseStart has it: the thinker knows its sampling's fields alone."""
    try:
        yield
    except AntiphonError as error:
        if error.param in thinker_pb2.ThinkerSampling.DESCRIPTOR.fields_by_name:
            error.param = f"sampling.{error.param}"
        raise


def _message(message: preprocess_pb2.Message, path: str) -> Message:
    role = "system" if message.role == "developer" else message.role
    return Message(
        role,
        [_part(part, f"{path}.parts[{j}]") for j, part in enumerate(message.parts)],
        tuple(
            ToolCall(f"{path}.tool_calls[{k}]", call.id, call.name, call.arguments_json or "{}")
            for k, call in enumerate(message.tool_calls)
        ),
        message.tool_call_id,
    )


def _part(part: preprocess_pb2.Part, path: str) -> Part:
    match part.WhichOneof("content"):
        case "image":
            image = part.image
            return ImagePart(path, _source(image.source), **_given(image, "min_pixels", "max_pixels"))
        case "audio":
            return AudioPart(path, _source(part.audio.source))
        case "video":
            video = part.video
            source = _source(video.source) if video.HasField("source") else tuple(map(_source, video.frames))
            options = _given(video, "fps", "min_pixels", "max_pixels", "total_pixels", "use_audio")
            return VideoPart(path, source, **options)
        case _:
            return TextPart(path, part.text)


def _source(source: preprocess_pb2.MediaSource) -> MediaSource:
    match source.WhichOneof("source"):
        case "inline_index":
            return InlineSource(source.inline_index, source.declared_format)
        case "local_path":
            return FileSource(source.local_path, source.declared_format)
        case _:
            return UrlSource(source.url, source.declared_format)


def _sampling(sampling: thinker_pb2.ThinkerSampling) -> Sampling:
    return Sampling(
        stop=tuple(sampling.stop),
        stop_token_ids=tuple(sampling.stop_token_ids),
        logit_bias=dict(sampling.logit_bias),
        **_given(
            sampling,
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "seed",
            "max_tokens",
            "min_tokens",
            "ignore_eos",
            "top_logprobs",
        ),
    )


def _speech(start: gateway_pb2.ConverseStart) -> SpeechOptions | None:
    if common_pb2.MODALITY_AUDIO not in start.output_modalities:
        return None
    return SpeechOptions(voice=start.voice, sampling=_speech_sampling(start.talker), **_given(start, "max_frames"))


def _speech_sampling(sampling: talker_pb2.TalkerSampling) -> SpeechSampling:
    names = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "seed")
    return SpeechSampling(**_given(sampling, *names))


def _given(message: Any, *names: str) -> dict[str, Any]:
    """Return the optional fields that the client set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}
