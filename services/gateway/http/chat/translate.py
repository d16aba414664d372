"""Translates a ChatRequest into the domain's messages, sampling and speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from services.common.errors import BadInput
from services.gateway.http.chat.files import file_part
from services.gateway.http.chat.messages import AssistantMessage, Message, PastAudio, ToolMessage
from services.gateway.http.chat.parts import (
    AssistantPart,
    AudioUrlPart,
    FilePart,
    FramesPart,
    ImageUrlPart,
    InputAudioPart,
    RefusalPart,
    Sampled,
    TextPart,
    UserPart,
    VideoUrlPart,
)
from services.gateway.http.chat.schema import ChatRequest, Talker
from services.gateway.http.chat.tools.schema import PastToolCall
from services.gateway.inline_media import InlineMedia
from services.gateway.turn import conversation
from services.gateway.turn.intent import Sampling, SpeechOptions, SpeechSampling


def messages_from(chat: ChatRequest, inline: InlineMedia, at: str = "messages") -> list[conversation.Message]:
    """Return the conversation, which the client wrote `at` this field. Media inside the request is added to `inline`.

    Raise BadInput or TooLarge that names the part.
    """
    fps = chat.mm_processor_kwargs.fps if chat.mm_processor_kwargs else None
    messages = [_message(message, f"{at}[{i}]", inline, fps) for i, message in enumerate(chat.messages)]
    return messages if inline.named_files else with_video_flags(messages, chat)


def with_video_flags(messages: Sequence[conversation.Message], chat: ChatRequest) -> list[conversation.Message]:
    """Give each video its flag, in order of appearance, where the request lists flags. Raise BadInput where there is
    not one for each."""
    param, flags = chat.audio_in_video
    if not isinstance(flags, list):
        return [*messages]
    videos = sum(isinstance(part, conversation.VideoPart) for message in messages for part in message.parts)
    if videos != len(flags):
        raise BadInput(
            f"Invalid '{param}': it has {len(flags)} flags for {videos} videos. Send one for each, or one for all.",
            param=param,
        )
    left = iter(flags)
    return [
        replace(
            message,
            parts=[
                replace(part, use_audio=next(left)) if isinstance(part, conversation.VideoPart) else part
                for part in message.parts
            ],
        )
        for message in messages
    ]


def _message(message: Message, path: str, inline: InlineMedia, fps: float | None) -> conversation.Message:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    calls: tuple[conversation.ToolCall, ...] = ()
    if isinstance(message, AssistantMessage):
        calls = tuple(_tool_call(call, f"{path}.tool_calls[{j}]") for j, call in enumerate(message.tool_calls or ()))
        if _is_empty(content):
            content = _answer_beside_content(message, path)
    call_id = message.tool_call_id if isinstance(message, ToolMessage) else ""
    if isinstance(content, str):
        parts: list[conversation.Part] = [conversation.TextPart(f"{path}.content", content)]
    else:
        parts = [part_from(part, f"{path}.content[{j}]", inline, fps) for j, part in enumerate(content or ())]
    return conversation.Message(role, parts, calls, call_id)


def _tool_call(call: PastToolCall, path: str) -> conversation.ToolCall:
    return conversation.ToolCall(path, call.id, call.function.name, call.function.arguments or "{}")


def check_past_calls(messages: Sequence[conversation.Message], arguments: str = "function.arguments") -> None:
    """Raise BadInput where the arguments of a call are not an object, which the chat template needs. `arguments`: their
    field below that of the call."""
    for call in (call for message in messages for call in message.tool_calls):
        try:
            parsed = from_json(call.arguments)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            param = f"{call.path}.{arguments}"
            raise BadInput(
                f"Invalid '{param}': it is not the text of a JSON object. Send '{{}}' for none.", param=param
            )


def _is_empty(content: str | Sequence[UserPart | AssistantPart] | None) -> bool:
    if content is None or isinstance(content, str):
        return not content
    return all(isinstance(part, TextPart) and not part.text for part in content)


def named_answer(message: Message) -> str | None:
    """Return the id of an answer that is sent back by its id alone; None = the message is none, or has its text."""
    if not isinstance(message, AssistantMessage) or message.audio is None or not _is_empty(message.content):
        return None
    audio, id = message.audio, message.audio.id
    if audio.transcript or message.refusal or _is_complete(audio) or not isinstance(id, str):
        return None
    return id


def _is_complete(audio: PastAudio) -> bool:
    """Whether the transcript is that of the whole answer, even if it is empty."""
    return audio.transcript is not None and audio.expires_at is not None


def _answer_beside_content(message: AssistantMessage, path: str) -> str:
    """Return the text of an answer whose content is empty: its transcript or its refusal.

    A client that joins the chunks of a stream has `content: ""` beside `audio`. An answer may also have no text at all:
    an empty transcript counts where `expires_at` shows that the speech is complete. One that has an id alone is empty
    here: past_answers.py finds its text.
    """
    audio = message.audio
    transcript = audio.transcript if audio is not None else None
    if transcript or message.refusal:
        return transcript or message.refusal or ""
    if message.tool_calls or named_answer(message) is not None:
        return ""
    if audio is not None and not _is_complete(audio):
        raise BadInput(
            f"Invalid '{path}.audio': it has no transcript and no id. Send the answer's text as "
            f"'{path}.audio.transcript' or '{path}.content', or its id as '{path}.audio.id'.",
            param=f"{path}.audio",
        )
    if audio is None and not isinstance(message.content, str):
        raise BadInput(
            f"Missing required parameter: '{path}.content'.", param=f"{path}.content", code="missing_required_parameter"
        )
    return ""


def part_from(
    part: UserPart | AssistantPart, path: str, inline: InlineMedia, fps: float | None = None
) -> conversation.Part:
    """Return the part that the client wrote at `path`. `fps` is that of videos without their own."""
    match part:
        case TextPart():
            return conversation.TextPart(path, part.text)
        case RefusalPart():
            return conversation.TextPart(path, part.refusal)
        case ImageUrlPart():
            return conversation.ImagePart(
                path,
                inline.source(part.image_url.url, f"{path}.image_url.url"),
                min_pixels=part.min_pixels if part.min_pixels is not None else part.image_url.min_pixels,
                max_pixels=part.max_pixels if part.max_pixels is not None else part.image_url.max_pixels,
            )
        case InputAudioPart():
            source = inline.source(
                part.input_audio.data,
                f"{path}.input_audio.data",
                declared_format=part.input_audio.format or "",
                bare_base64=True,
            )
            return conversation.AudioPart(path, source)
        case AudioUrlPart():
            declared = part.audio_url.format or ""
            return conversation.AudioPart(
                path, inline.source(part.audio_url.url, f"{path}.audio_url.url", declared_format=declared)
            )
        case VideoUrlPart():
            source = inline.source(part.video_url.url, f"{path}.video_url.url")
            return _video((part, part.video_url), path, source, fps)
        case FilePart():
            return file_part(part.file, path, f"{path}.file", inline)
        case FramesPart():
            frames = [inline.source(url, f"{path}.video[{k}]") for k, url in enumerate(part.video)]
            return _video((part,), path, frames, fps)


def _video(
    places: Sequence[Sampled],
    path: str,
    source: conversation.MediaSource | list[conversation.MediaSource],
    fps: float | None,
) -> conversation.VideoPart:
    """Return the video. Each option is that of the first of the `places` that has it; `fps` is the request's."""

    def first(name: str) -> Any:
        return next((value for place in places if (value := getattr(place, name)) is not None), None)

    own_fps = first("fps")
    return conversation.VideoPart(
        path,
        source,
        fps=fps if own_fps is None else own_fps,
        min_pixels=first("min_pixels"),
        max_pixels=first("max_pixels"),
        total_pixels=first("total_pixels"),
    )


def sampling_from(chat: ChatRequest) -> Sampling:
    """Return the thinker's sampling. What the client left out stays absent: the model's default applies."""
    return replace(
        chat.sampling,
        stop_token_ids=chat.stop_token_ids or (),
        max_tokens=chat.token_limit,
        min_tokens=chat.min_tokens,
        ignore_eos=chat.ignore_eos,
        logit_bias={int(token): bias for token, bias in (chat.logit_bias or {}).items()},
        top_logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
    )


def speech_from(chat: ChatRequest) -> SpeechOptions | None:
    if not chat.wants_speech:
        return None
    talker = chat.talker or Talker()
    sampling = SpeechSampling(
        do_sample=talker.do_sample,
        temperature=talker.temperature,
        top_k=talker.top_k,
        top_p=talker.top_p,
        repetition_penalty=talker.repetition_penalty,
        # One seed makes text and speech repeatable.
        seed=talker.seed if talker.seed is not None else chat.seed,
    )
    return SpeechOptions(
        voice=chat.audio.voice_name if chat.audio else "", sampling=sampling, max_frames=talker.max_frames
    )
