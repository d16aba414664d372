"""The answers of transcriptions, translations and captions, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, RootModel

from services.gateway.http.reply import Ended, Reply, TokensUsage, maybe


class Transcription(Ended):
    text: str
    usage: TokensUsage


class SecondsUsage(Reply):
    type: Literal["duration"]
    seconds: float


class TranscriptionSegment(Reply):
    """What is said in a piece of a recording."""

    id: int
    start: float = Field(description="seconds of the recording")
    end: float
    text: str


class VerboseTranscription(Ended):
    """Without words: the model tells no times."""

    task: Literal["transcribe", "translate"]
    language: str = Field(description="of the audio, in English, as the request says it; else `unknown`")
    duration: float = Field(description="of the audio, seconds")
    text: str
    segments: list[TranscriptionSegment] = maybe("of a recording that is cut: its pieces that say something")
    usage: SecondsUsage


class WholeTranscription(RootModel[Transcription | VerboseTranscription]):
    pass


class TranscriptionProgress(Reply):
    """An extension: comes after each piece of a recording that is cut."""

    type: Literal["antiphon.progress"]
    transcribed_s: float
    recording_s: float = Field(description="by the file's headers, until all of it is decoded")


class TranscriptTextDelta(Reply):
    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptTextDone(Transcription):
    type: Literal["transcript.text.done"]


class CaptionTextDelta(Reply):
    type: Literal["caption.text.delta"]
    delta: str


class CaptionTextDone(Transcription):
    type: Literal["caption.text.done"]
