"""The body of POST /v1/audio/speech."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from services.gateway.audio.formats import AudioFormat
from services.gateway.audio.tempo import FASTEST, SLOWEST
from services.gateway.http.chat.parts import Strict
from services.gateway.http.chat.schema import Seed, Talker, Voice
from services.gateway.limits import MAX_NAME_CHARS
from services.gateway.turn.intent import SpeechOptions, SpeechSampling

SpeechFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
MAX_INPUT_CHARS = 4096


def _holds_words(text: str) -> str:
    if not text.strip():
        problem = "Invalid 'input': it holds nothing to say. Send a text."
        raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem})
    return text


class SpeechRequest(Strict):
    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = Field(
        default=None, description="may be left out where one model is served"
    )
    input: Annotated[
        str,
        Field(min_length=1, max_length=MAX_INPUT_CHARS, description="what is said, word by word"),
        AfterValidator(_holds_words),
    ]
    voice: Voice | None = Field(default=None, description="absent = the model's default")
    instructions: Annotated[str, Field(max_length=MAX_INPUT_CHARS)] | None = Field(
        default=None, description="how to say it: the user's turn, which the talker reads"
    )
    response_format: SpeechFormat | None = Field(default=None, description="mp3 where it is left out")
    speed: Annotated[float, Field(ge=SLOWEST, le=FASTEST)] | None = Field(
        default=None, description="the model has one pace: another one is made of its speech"
    )
    stream_format: Literal["audio", "sse"] | None = Field(default=None, description="audio where it is left out")
    # Extensions, as chat has them.
    seed: Seed | None = None
    talker: Talker | None = None

    @property
    def audio_format(self) -> AudioFormat:
        return "pcm16" if self.response_format == "pcm" else self.response_format or "mp3"

    @property
    def speech(self) -> SpeechOptions:
        """The wanted speech."""
        talker, voice = self.talker or Talker(), self.voice.id if self.voice else ""
        sampling = SpeechSampling(
            do_sample=talker.do_sample,
            temperature=talker.temperature,
            top_k=talker.top_k,
            top_p=talker.top_p,
            repetition_penalty=talker.repetition_penalty,
            seed=talker.seed if talker.seed is not None else self.seed,
        )
        return SpeechOptions(voice, sampling, talker.max_frames)
