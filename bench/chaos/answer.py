"""An answer as its client assembles it, and how it differs from the same question's answer without losses."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

# A ten-thousandth of full scale, in steps of 16-bit samples.
TOLERANCE = 3


@dataclass
class ReceivedAnswer:
    """Tokens, text, codes (frame by frame) and 16-bit samples, and when they came (Unix time, seconds)."""

    token_ids: list[int] = field(default_factory=list[int])
    text: str = ""
    codes: list[int] = field(default_factory=list[int])
    pcm: bytes = b""
    finish_reason: str = ""
    # The counts of the prompt, the text and the speech, in the order of the API that was asked.
    usage: tuple[int, ...] = ()
    texts_at_s: list[float] = field(default_factory=list[float])
    speech_at_s: list[float] = field(default_factory=list[float])

    def add_text(self, token_ids: list[int], text: str) -> None:
        if token_ids or text:
            self.texts_at_s.append(time.time())
        self.token_ids += token_ids
        self.text += text

    def add_speech(self, codes: list[int], pcm: bytes) -> None:
        if codes or pcm:
            self.speech_at_s.append(time.time())
        self.codes += codes
        self.pcm += pcm


def differences(answer: ReceivedAnswer, reference: ReceivedAnswer) -> list[str]:
    """Return which parts differ: "tokens", "text", "codes", "samples", "end", "usage". Samples may differ by a
    ten-thousandth of full scale."""
    return [
        part
        for part, same in (
            ("tokens", answer.token_ids == reference.token_ids),
            ("text", answer.text == reference.text),
            ("codes", answer.codes == reference.codes),
            ("samples", _same_samples(answer.pcm, reference.pcm)),
            ("end", answer.finish_reason == reference.finish_reason),
            ("usage", answer.usage == reference.usage),
        )
        if not same
    ]


def _same_samples(pcm: bytes, reference: bytes) -> bool:
    if len(pcm) != len(reference):
        return False
    samples, expected = (np.frombuffer(each, "<i2").astype(np.int32) for each in (pcm, reference))
    return not len(samples) or int(np.abs(samples - expected).max()) <= TOLERANCE
