"""Translates native requests into OpenAI's form of them, and into the stack's messages."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from services.common.errors import BadInput
from services.common.http.errors import bad_input_from
from services.gateway.http.chat import messages as chat_messages
from services.gateway.http.chat.parse import Reading
from services.gateway.http.chat.parts import (
    AudioUrl,
    AudioUrlPart,
    FramesPart,
    ImageUrl,
    ImageUrlPart,
    TextPart,
    UserPart,
    VideoUrl,
    VideoUrlPart,
)
from services.gateway.http.chat.schema import Audio, ChatOptions, ChatRequest, VoiceId
from services.gateway.http.chat.translate import check_past_calls, messages_from
from services.gateway.http.dashscope.schema import NativeMessage, NativePart, NativeRequest, TextRequest
from services.gateway.inline_media import InlineMedia
from services.gateway.turn import conversation

MESSAGES = "input.messages"


@dataclass(frozen=True, slots=True)
class NativeChat:
    chat: ChatRequest
    messages: Sequence[conversation.Message]
    incremental: bool
    # The answer is a text without a message around it.
    text_alone: bool = False


def field(name: str) -> str:
    """Return where the native form has a field of OpenAI's."""
    root = name.partition(".")[0].partition("[")[0]
    return name if root in ("model", "input", "parameters", "") else f"parameters.{name}"


def chat_from(request: NativeRequest, inline: InlineMedia) -> NativeChat:
    """Raise BadInput or TooLarge that names the field as the client wrote it."""
    with _named_as_written():
        return _native_chat(request, request.input.messages, _spoken(request), inline)


def text_chat_from(request: TextRequest, inline: InlineMedia) -> NativeChat:
    """As `chat_from`, of a request of text-generation."""
    prompt = request.input.prompt
    asked = request.input.messages or [NativeMessage(role="user", content=prompt)]
    with _named_as_written():
        made = _native_chat(request, asked, {}, inline)
        if not request.parameters.are_of_text_alone:
            return made
        for name, is_asked in (
            ("tools", made.chat.tools),
            ("logprobs", made.chat.logprobs),
            ("n", (made.chat.n or 1) > 1),
        ):
            if is_asked:
                raise BadInput(
                    f"Invalid '{name}': an answer of 'result_format' text has no place for it. Send 'message'.",
                    param=name,
                )
    return replace(made, text_alone=True)


@contextmanager
def _named_as_written() -> Generator[None]:
    """Have errors name the fields of the native form."""
    try:
        yield
    except ValidationError as error:
        raise _named(bad_input_from(error, {})) from None
    except BadInput as error:
        raise _named(error) from None


def _named(error: BadInput) -> BadInput:
    if error.param is not None:
        name = field(error.param)
        error.message = error.message.replace(f"'{error.param}'", f"'{name}'", 1)
        error.param = name
    return error


def _native_chat(
    request: NativeRequest | TextRequest, asked: Sequence[NativeMessage], given: dict[str, Any], inline: InlineMedia
) -> NativeChat:
    """`given`: parameters that the request has elsewhere."""
    parameters = request.parameters
    names = parameters.model_fields_set & ChatOptions.model_fields.keys()
    given = {**{name: getattr(parameters, name) for name in names}, **given}
    messages = [_message(message, f"{MESSAGES}[{i}]") for i, message in enumerate(asked)]
    chat = ChatRequest(model=request.model, messages=messages, **given)
    return NativeChat(chat, messages_from(chat, inline, MESSAGES), parameters.incremental_output is not False)


def _spoken(request: NativeRequest) -> dict[str, Any]:
    """Return how the answer is spoken, where the input says its voice."""
    voice, audio = request.input.voice, request.parameters.audio or Audio()
    if voice is None:
        return {}
    if audio.voice is not None and audio.voice.id != voice:
        raise BadInput("'input.voice' and 'parameters.audio.voice' differ. Send one of them.", param="input.voice")
    return {"audio": Audio(voice=VoiceId(id=voice), format=audio.format)}


def _message(message: NativeMessage, path: str) -> chat_messages.Message:
    match message.role:
        case "system":
            return chat_messages.SystemMessage(role="system", content=_texts(message, path) or "")
        case "user":
            return chat_messages.UserMessage(role="user", content=_parts(message) or "")
        case "assistant":
            return chat_messages.AssistantMessage(
                role="assistant", content=_texts(message, path) or "", tool_calls=message.tool_calls
            )
        case "tool":
            return chat_messages.ToolMessage(
                role="tool", content=_parts(message) or "", tool_call_id=message.tool_call_id or ""
            )


def _texts(message: NativeMessage, path: str) -> list[Any]:
    """Return the texts, for any role's content."""
    texts: list[TextPart] = []
    for j, part in enumerate(message.parts):
        if part.text is None:
            param = f"{path}.content[{j}]"
            raise BadInput(f"Invalid '{param}': only messages with role 'user' or 'tool' can hold media.", param=param)
        texts.append(TextPart(type="text", text=part.text))
    return texts


def _parts(message: NativeMessage) -> list[UserPart]:
    return [_part(part) for part in message.parts]


def _part(part: NativePart) -> UserPart:
    if part.text is not None:
        return TextPart(type="text", text=part.text)
    if part.image is not None:
        url = ImageUrl(url=part.image)
        return ImageUrlPart(type="image_url", image_url=url, min_pixels=part.min_pixels, max_pixels=part.max_pixels)
    if part.audio is not None:
        return AudioUrlPart(type="audio_url", audio_url=AudioUrl(url=part.audio))
    sampled = {name: getattr(part, name) for name in ("fps", "min_pixels", "max_pixels", "total_pixels")}
    if isinstance(part.video, list):
        return FramesPart(type="video", video=part.video, **sampled)
    return VideoUrlPart(type="video_url", video_url=VideoUrl(url=part.video or ""), **sampled)


READING = Reading(
    NativeRequest,
    chat_from,
    lambda made: check_past_calls(made.messages),
    lambda request: request.text_chars,
)
TEXT_READING = Reading(
    TextRequest,
    text_chat_from,
    lambda made: check_past_calls(made.messages),
    lambda request: request.text_chars,
)
