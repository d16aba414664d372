"""Named prompts of the model's documents, which a request asks for by name.

A system preset is the system message: what the client's own says comes first, in the place of the documents' own first
sentence. A task preset is what is asked of the media in the last message of the user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from services.common.errors import BadInput
from services.gateway.http.transcription.languages import (
    LYRICS_PROMPT,
    transcription_prompt,
    translation_prompt,
)
from services.gateway.turn.conversation import Message, TextPart

PresetName = Literal["voice-assistant", "transcription", "transcription-zh", "translation", "lyrics"]

_ASSISTANT = "You are Qwen-Omni, a smart voice assistant created by Alibaba Qwen."
# As the documents have it.
_VOICE_ASSISTANT = (
    "You are a virtual voice assistant with no gender or age.\n"
    "You are communicating with the user.\n"
    "In user messages, “I/me/my/we/our” refer to the user and “you/your” refer to the assistant. In your replies,"
    " address the user as “you/your” and yourself as “I/me/my”; never mirror the user’s pronouns—always shift"
    " perspective. Keep original pronouns only in direct quotes; if a reference is unclear, ask a brief clarifying"
    " question.\n"
    "Interact with users using short(no more than 50 words), brief, straightforward language, maintaining a natural"
    " tone.\n"
    "Never use formal phrasing, mechanical expressions, bullet points, overly structured language. \n"
    "Your output must consist only of the spoken content you want the user to hear. \n"
    "Do not include any descriptions of actions, emotions, sounds, or voice changes. \n"
    "Do not use asterisks, brackets, parentheses, or any other symbols to indicate tone or actions. \n"
    "You must answer users' audio or text questions, do not directly describe the video content. \n"
    "You should communicate in the same language strictly as the user unless they request otherwise.\n"
    "When you are uncertain (e.g., you can't see/hear clearly, don't understand, or the user makes a comment rather"
    " than asking a question), use appropriate questions to guide the user to continue the conversation.\n"
    "Keep replies concise and conversational, as if talking face-to-face."
)


@dataclass(frozen=True, slots=True)
class AskedPreset:
    """`language`: of the speech, None = not said; `to_language`: that of a translation. Codes of languages.py."""

    name: PresetName
    language: str | None = None
    to_language: str = "en"


@dataclass(frozen=True, slots=True)
class Preset:
    name: PresetName
    kind: Literal["system", "task"]
    about: str
    # What the model reads, as `asked` has it.
    text: Callable[[AskedPreset], str]
    # Of AskedPreset, beside the name.
    parameters: tuple[str, ...] = ()


PRESETS: dict[PresetName, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "voice-assistant",
            "system",
            "A conversation that is heard: short, spoken language. A system message of your own says who the assistant"
            " is.",
            lambda _: f"{_ASSISTANT} {_VOICE_ASSISTANT}",
        ),
        Preset(
            "transcription",
            "task",
            "What is said in the audio, in any language but Chinese.",
            lambda _: transcription_prompt(None, ""),
        ),
        Preset(
            "transcription-zh",
            "task",
            "What is said in the audio, in Chinese.",
            lambda _: transcription_prompt("zh", ""),
        ),
        Preset(
            "translation",
            "task",
            "What is said in the audio, in another language.",
            lambda asked: translation_prompt(asked.language, asked.to_language, ""),
            ("language", "to_language"),
        ),
        Preset(
            "lyrics",
            "task",
            "The lyrics of a song, line by line.",
            lambda _: LYRICS_PROMPT,
        ),
    )
}  # fmt: skip


def with_preset(messages: Sequence[Message], asked: AskedPreset, param: str) -> list[Message]:
    """Return the conversation with the preset. Raise BadInput that names `param` where it has no place for it."""
    preset = PRESETS[asked.name]
    if preset.kind == "system":
        return _with_system(messages, param)
    return _with_task(messages, preset.text(asked), param)


def has_place(messages: Sequence[Message], asked: AskedPreset) -> bool:
    """Return whether `with_preset` takes it: a task is for media without a text."""
    return PRESETS[asked.name].kind == "system" or (_has_media(messages) and not _has_own_text(messages[-1]))


def _has_media(messages: Sequence[Message]) -> bool:
    last = messages[-1] if messages else Message("user", ())
    return last.role == "user" and any(not isinstance(part, TextPart) for part in last.parts)


def _has_own_text(message: Message) -> bool:
    return any(isinstance(part, TextPart) and part.text.strip() for part in message.parts)


def _with_system(messages: Sequence[Message], param: str) -> list[Message]:
    is_own = bool(messages) and messages[0].role == "system"
    own = "".join(part.text for part in messages[0].parts if isinstance(part, TextPart)) if is_own else ""
    text = TextPart(param, f"{own.strip() or _ASSISTANT} {_VOICE_ASSISTANT}")
    return [Message("system", [text]), *(messages[1:] if is_own else messages)]


def _with_task(messages: Sequence[Message], task: str, param: str) -> list[Message]:
    if not _has_media(messages):
        raise BadInput(
            f"Invalid '{param}': it is a task for media, and the last message holds none. Send a message of the user"
            " with an audio.",
            param=param,
        )
    last = messages[-1]
    if _has_own_text(last):
        raise BadInput(
            f"Invalid '{param}': the last message has a text of its own, and the preset is one. Send one of them.",
            param=param,
        )
    media = [part for part in last.parts if not isinstance(part, TextPart)]
    return [*messages[:-1], replace(last, parts=[*media, TextPart(param, task)])]
