"""A bank of speech: questions of the world and words in any order, in many voices, made once and kept on the disk.

Run as `python -m training.mind.speech`; it goes on where it stopped. The audio tower learns from as much as there is.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

from training.cache import cache_folder
from training.config import SAMPLE_RATE
from training.hibari_voice import Timbre
from training.mind import questions
from training.mind.arrays import RATE, Samples
from training.mind.clips import Clip, write_clips
from training.options import parse_options, stage_parser
from training.voices import PICO, UNHEARD_USER, USERS, say, say_as, trim
from training.world.facts import draw_film, draw_picture, draw_recording
from training.world.sentences import is_held_out
from training.world.words import WORDS

_ESPEAK = [f"{accent}+{who}" for accent in ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp")
           for who in ("m1", "m3", "m5", "m7", "f1", "f2", "f4", "f5")]  # fmt: skip
_FESTIVAL = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")


def draw_text(rng: random.Random) -> str:
    """Draw what is to be spoken: mostly a question with an answer that is not held out; else words in any order."""
    roll = rng.random()
    if roll < 0.27:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))
    while True:
        asked = _draw_question(rng)
        if not is_held_out(asked.answer):
            return asked.text


def draw_held_out_text(rng: random.Random) -> str:
    """Draw a question with a held-out answer: no training data asks it."""
    while True:
        asked = rng.choice((questions.ask_sum, questions.ask_sum, questions.ask_number))(rng)
        if is_held_out(asked.answer):
            return asked.text


def _draw_question(rng: random.Random) -> questions.Asked:
    scenes = (draw_picture, draw_picture, draw_recording, lambda r: draw_film(r, has_sound=True))
    about: Callable[[random.Random], questions.Asked] = lambda r: questions.ask_about(r.choice(scenes)(r), r)  # noqa: E731
    memory: Callable[[random.Random], questions.Asked] = lambda r: questions.ask_memory(["hello", "thanks"], r)  # noqa: E731
    kinds = [*[questions.ask_sum] * 10, *[questions.ask_number] * 4, *[about] * 6, memory, questions.ask_greeting]
    return rng.choice([*kinds, questions.ask_unknown])(rng)


def speak(text: str, rng: random.Random) -> Clip:
    """Speak in a voice of training, at a pace of its own. A third of it is in a timbre of its own, too."""
    speed = rng.uniform(0.7, 1.3)
    roll = rng.random()
    if roll < 0.34:
        voice = "hibari"
        sound = say_as(_draw_timbre(rng), text, speed=speed, seed=rng.randrange(1 << 30))
    elif roll < 0.7:
        voice = rng.choice((*USERS, *PICO, *PICO))
        sound = say(voice, text, speed=speed, seed=rng.randrange(1 << 30))
    elif roll < 0.88:
        voice = f"espeak {rng.choice(_ESPEAK)}"
        pace, pitch = str(int(160 * speed)), str(rng.randint(20, 80))
        sound = _run(["espeak-ng", "-v", voice[7:], "-s", pace, "-p", pitch, "-w", "OUT", text])
    else:
        voice = f"festival {rng.choice(_FESTIVAL)}"
        sound = _run(["text2wave", "-eval", f"(voice_{voice[9:]})", "-o", "OUT"], text)
    return Clip(text, voice, soxr.resample(sound, SAMPLE_RATE, RATE).astype(np.float32))


def _draw_timbre(rng: random.Random) -> Timbre:
    high = rng.random()
    tract = 0.8 + 0.38 * min(1.0, max(0.0, high + rng.gauss(0, 0.15)))
    return Timbre(0.45 + 1.0 * high, rng.uniform(0.3, 1.6), tract, rng.choice((0.0, 0.0, rng.uniform(-3, 9))))


def speak_unheard(text: str, rng: random.Random) -> Clip:
    """Speak in the voice that no training hears."""
    sound = say(UNHEARD_USER, text, speed=rng.uniform(0.9, 1.15))
    return Clip(text, UNHEARD_USER, soxr.resample(sound, SAMPLE_RATE, RATE).astype(np.float32))


def _run(command: list[str], text: str | None = None) -> Samples:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        given = [file.name if word == "OUT" else word for word in command]
        subprocess.run(given, input=text.encode() if text else None, check=True, capture_output=True)
        sound, rate = soundfile.read(file.name, dtype="float32")
    return trim(soxr.resample(sound, rate, SAMPLE_RATE))


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--count", type=int, default=9000)
    given = parse_options(options)
    work = cache_folder("mind")
    write_clips(work / "speech-unheard", 100, 3, lambda rng: speak_unheard(draw_held_out_text(rng), rng))
    write_clips(work / "speech-check", 100, 2, lambda rng: speak(draw_held_out_text(rng), rng))
    write_clips(work / "speech", given.count, 1, lambda rng: speak(draw_text(rng), rng))


if __name__ == "__main__":
    main()
