"""The events of POST /v1/audio/speech, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.gateway.http.reply import Ended, Reply, Spoken, TokensUsage


class SpeechAudioDelta(Reply):
    type: Literal["speech.audio.delta"]
    audio: str = Field(description="base64 that can be concatenated")


class SpeechAudioDone(Ended, Spoken):
    type: Literal["speech.audio.done"]
    usage: TokensUsage
