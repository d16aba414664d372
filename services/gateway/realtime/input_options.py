"""What a client wishes for the audio of its user."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transcription:
    """How it is transcribed for the client."""

    # A code of LANGUAGES; None = any.
    language: str | None = None
    # What the text may continue, or whose words and style it may have.
    prompt: str = ""
