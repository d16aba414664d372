"""What a Live session begins with, in the words of OpenAI's Realtime API: client secrets and kept sessions have their
settings in those."""

from __future__ import annotations

from typing import Any

from services.common.errors import BadInput
from services.gateway.realtime.audio.formats import PCM_FORMATS, AudioFormat
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.kept.sessions import KeptSession
from services.gateway.realtime.live.schema import PcmFormat, SessionConfig
from services.gateway.realtime.openai.schema import SessionOptions
from services.gateway.turn.intent import FieldNames, Principal

FIELD_NAMES = FieldNames(
    voice="session.audio.output.voice",
    modalities="session.model",
    messages="session.input",
    max_tokens="max_output_tokens",
)


def begun_settings(
    principal: Principal, kept: KeptSession | None, config: SessionConfig
) -> tuple[list[SessionOptions], str | None]:
    """Return the settings, each to be put in the place of those before it, and the model's name; None = the only one.
    Raise BadInput where the client changes what a kept session has."""
    if kept is not None:
        _check_unchanged(kept, config)
        return _read(kept.settings), kept.model
    secret = principal.secret.session if principal.secret is not None else ""
    given: dict[str, Any] = {}
    if config.instructions is not None:
        given["instructions"] = config.instructions
    if config.audio is not None and config.audio.output is not None and config.audio.output.voice is not None:
        given["audio"] = {"output": {"voice": config.audio.output.voice.id}}
    return [*_read(secret), SessionOptions.model_validate(given)], config.model


def format_of(config: SessionConfig) -> AudioFormat:
    """Return the format of the audio of both sides."""
    given = config.audio.format if config.audio is not None else None
    if given is None or isinstance(given, PcmFormat):
        return PCM_FORMATS[(given.rate if given is not None else None) or SAMPLE_RATE]
    return AudioFormat(given.type.removeprefix("audio/"))


def instructions_of(before: str, content: str) -> str:
    return f"{before}\n\n{content}" if before else content


def _read(settings: str) -> list[SessionOptions]:
    return [SessionOptions.model_validate_json(settings)] if settings else []


def _check_unchanged(kept: KeptSession, config: SessionConfig) -> None:
    given = {
        "model": config.model not in (None, kept.model),
        "instructions": config.instructions is not None,
        "audio.output": config.audio is not None and config.audio.output is not None,
        "input": bool(config.input),
    }
    for name, is_given in given.items():
        if is_given:
            raise BadInput(
                f"Invalid 'session.{name}': the session that this goes on with has it already. Leave it out.",
                param=f"session.{name}",
            )
