"""The process that hears: it answers how probable speech is in the audio of many sessions, one after the other.

    python -m services.gateway.realtime.turns.hearing        started by HearingProcess

It reads questions from its standard input and ends with it. A question is HEADER (a detector's number, bytes that
follow) and samples: 24 kHz, mono, 16 bits, whole hops. Its answer is COUNT and so many float32, a hop each. Without
bytes it is none, and has no answer: the detector is over. One that is not known yet is new.
"""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

from services.gateway.realtime.turns.hearing_process import COUNT, HEADER
from services.gateway.realtime.turns.silero.model import SileroModel, SpeechDetector


def answer(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the questions end."""
    model, detectors = SileroModel(), dict[int, SpeechDetector]()
    while len(header := questions.read(HEADER.size)) == HEADER.size:
        number, size = HEADER.unpack(header)
        if not size:
            detectors.pop(number, None)
            continue
        probabilities = detectors.setdefault(number, SpeechDetector()).hear(model, questions.read(size))
        answers.write(COUNT.pack(len(probabilities)) + struct.pack(f"<{len(probabilities)}f", *probabilities))
        answers.flush()


if __name__ == "__main__":
    answer(sys.stdin.buffer, sys.stdout.buffer)
