"""Translates a ChatRequest into the stack's messages, sampling and speech."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.v1 import preprocess_pb2, talker_pb2, thinker_pb2
from services.common.errors import BadInput
from services.gateway.http.chat.parts import (
    AssistantPart,
    AudioUrlPart,
    FramesPart,
    ImageUrlPart,
    InputAudioPart,
    RefusalPart,
    Sampled,
    TextPart,
    UserPart,
    VideoUrlPart,
)
from services.gateway.http.chat.schema import AssistantMessage, ChatRequest, Message, Talker
from services.gateway.inline_media import InlineMedia
from services.gateway.turn.request import SpeechOptions


def messages_from(chat: ChatRequest, inline: InlineMedia) -> list[preprocess_pb2.Message]:
    """Return the conversation. Media inside the request is added to `inline`.

    Raise BadInput or TooLarge that names the part.
    """
    return [_message(message, f"messages[{i}]", inline) for i, message in enumerate(chat.messages)]


def _message(message: Message, path: str, inline: InlineMedia) -> preprocess_pb2.Message:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(message, AssistantMessage) and _is_empty(content):
        content = _answer_beside_content(message, path)
    if isinstance(content, str):
        return preprocess_pb2.Message(role=role, parts=[preprocess_pb2.Part(path=f"{path}.content", text=content)])
    parts = [_part(part, f"{path}.content[{j}]", inline) for j, part in enumerate(content or ())]
    return preprocess_pb2.Message(role=role, parts=parts)


def _is_empty(content: str | Sequence[UserPart | AssistantPart] | None) -> bool:
    if content is None or isinstance(content, str):
        return not content
    return all(isinstance(part, TextPart) and not part.text for part in content)


def _answer_beside_content(message: AssistantMessage, path: str) -> str:
    """Return the text of an answer whose content is empty: its transcript or its refusal.

    A client that joins the chunks of a stream has `content: ""` beside `audio`. An answer may also have no text at all:
    an empty transcript counts where `expires_at` shows that the speech is complete.
    """
    audio = message.audio
    transcript = audio.transcript if audio is not None else None
    if transcript or message.refusal:
        return transcript or message.refusal or ""
    if audio is not None and (transcript is None or audio.expires_at is None):
        raise BadInput(
            f"Invalid '{path}.audio': it has no transcript, and the server does not store spoken answers. Send the "
            f"answer's text as '{path}.audio.transcript' or '{path}.content'.",
            param=f"{path}.audio",
        )
    if audio is None and not isinstance(message.content, str):
        raise BadInput(
            f"Missing required parameter: '{path}.content'.", param=f"{path}.content", code="missing_required_parameter"
        )
    return ""


def _part(part: UserPart | AssistantPart, path: str, inline: InlineMedia) -> preprocess_pb2.Part:
    match part:
        case TextPart():
            return preprocess_pb2.Part(path=path, text=part.text)
        case RefusalPart():
            return preprocess_pb2.Part(path=path, text=part.refusal)
        case ImageUrlPart():
            source = inline.source(part.image_url.url, f"{path}.image_url.url")
            image = preprocess_pb2.ImagePart(
                source=source,
                min_pixels=part.min_pixels if part.min_pixels is not None else part.image_url.min_pixels,
                max_pixels=part.max_pixels if part.max_pixels is not None else part.image_url.max_pixels,
            )
            return preprocess_pb2.Part(path=path, image=image)
        case InputAudioPart():
            source = inline.source(
                part.input_audio.data,
                f"{path}.input_audio.data",
                declared_format=part.input_audio.format or "",
                bare_base64=True,
            )
            return preprocess_pb2.Part(path=path, audio=preprocess_pb2.AudioPart(source=source))
        case AudioUrlPart():
            declared = part.audio_url.format or ""
            source = inline.source(part.audio_url.url, f"{path}.audio_url.url", declared_format=declared)
            return preprocess_pb2.Part(path=path, audio=preprocess_pb2.AudioPart(source=source))
        case VideoUrlPart():
            video = _video(part)
            video.source.CopyFrom(inline.source(part.video_url.url, f"{path}.video_url.url"))
            return preprocess_pb2.Part(path=path, video=video)
        case FramesPart():
            video = _video(part)
            video.frames.extend(inline.source(url, f"{path}.video[{k}]") for k, url in enumerate(part.video))
            return preprocess_pb2.Part(path=path, video=video)


def _video(part: Sampled) -> preprocess_pb2.VideoPart:
    return preprocess_pb2.VideoPart(
        fps=part.fps, min_pixels=part.min_pixels, max_pixels=part.max_pixels, total_pixels=part.total_pixels
    )


def sampling_from(chat: ChatRequest) -> thinker_pb2.ThinkerSampling:
    """Return the thinker's sampling. What the client left out stays absent: the model's default applies."""
    return thinker_pb2.ThinkerSampling(
        temperature=chat.temperature,
        top_p=chat.top_p,
        top_k=max(chat.top_k, 0) if chat.top_k is not None else None,
        min_p=chat.min_p,
        presence_penalty=chat.presence_penalty,
        frequency_penalty=chat.frequency_penalty,
        repetition_penalty=chat.repetition_penalty,
        seed=chat.seed,
        stop=[chat.stop] if isinstance(chat.stop, str) else chat.stop,
        stop_token_ids=chat.stop_token_ids,
        max_tokens=chat.token_limit,
        min_tokens=chat.min_tokens,
        ignore_eos=chat.ignore_eos,
        logit_bias={int(token): bias for token, bias in (chat.logit_bias or {}).items()},
    )


def speech_from(chat: ChatRequest) -> SpeechOptions | None:
    if not chat.wants_speech:
        return None
    talker = chat.talker or Talker()
    sampling = talker_pb2.TalkerSampling(
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
