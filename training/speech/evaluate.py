"""Marks speech on held-out sentences, by its word error rate as Whisper hears it and by DNSMOS:

    python -m training.speech.evaluate {source,codec,talker} [--answers 200] [--voice ethan] [--short] \
        [--checkpoint FOLDER]

source: the voices themselves; codec: what comes back of them through codes; talker: free running with the server's
sampling, by what the stages have learned so far or by an assembled checkpoint. --short: answers of a few words, which
are in the training. What was heard goes to a file in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3OmniMoeForConditionalGeneration

from training.cache import cache_folder
from training.config import SAMPLE_RATE
from training.hearing import plain, quality, transcribe, word_error_rate
from training.options import parse_options, stage_parser
from training.speech.corpus import render
from training.speech.fit_codec import load_codec
from training.speech.talker import TinyTalker
from training.speech.train_code2wav import load_code2wav
from training.speech.train_talker import load_talker
from training.voices import SPEAKERS
from training.world.sentences import draw_answers, draw_short_answers

Sound = NDArray[np.float32]
Way = Callable[[list[str], str], Iterator[Sound]]
"""Answers and a voice → their sounds."""

SEED = 11
BATCH = 50
"""Answers that the talker says at once."""

_SAMPLES = 3
"""Sounds of each voice that are kept, to listen to."""


def decode(code2wav: Any, codes: Tensor) -> Sound:
    """Return the sound of int64 [frames, 16]."""
    with torch.inference_mode():
        return code2wav(codes.T[None])[0, 0].numpy()


class Mouth:
    """What speaks: talker and code2wav, out of the stages' files or out of an assembled checkpoint."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            self._talker, self._code2wav = load_talker(), load_code2wav()
            return
        loaded: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self._talker, self._code2wav = TinyTalker().eval(), loaded.code2wav.eval()
        self._talker.talker.load_state_dict(loaded.talker.state_dict())

    def __call__(self, answers: list[str], voice: str) -> Iterator[Sound]:
        for begin in range(0, len(answers), BATCH):
            for codes in self._talker.speak(answers[begin : begin + BATCH], voice, seed=SEED + begin):
                yield decode(self._code2wav, codes) if len(codes) else np.zeros(SAMPLE_RATE // 10, np.float32)


def source(answers: list[str], voice: str) -> Iterator[Sound]:
    for index, answer in enumerate(answers):
        yield (render(answer, voice, seed=SEED + index).sound / 32767).astype(np.float32)


def from_codes(answers: list[str], voice: str) -> Iterator[Sound]:
    codec, code2wav = load_codec(), load_code2wav()
    for index, answer in enumerate(answers):
        yield decode(code2wav, codec.encode(render(answer, voice, seed=SEED + index)))


@dataclass(frozen=True)
class Marks:
    """Of one voice. word_error_rate: a share. dnsmos: 1 … 5. pairs: what was to be said, and what was heard."""

    word_error_rate: float
    dnsmos: float
    pairs: list[tuple[str, str]]

    @property
    def wrong(self) -> list[tuple[str, str]]:
        return [(wanted, got) for wanted, got in self.pairs if plain(wanted) != got]


def evaluate(name: str, way: Way, voice: str, answers: list[str]) -> Marks:
    """Mark a voice, print the marks and each failure, and keep all that was heard."""
    folder = cache_folder("speech") / "heard"
    folder.mkdir(exist_ok=True)
    heard, scores = list[str](), list[float]()
    for index, sound in enumerate(way(answers, voice)):
        if index < _SAMPLES:
            soundfile.write(folder / f"{name}-{voice}-{index}.wav", sound, SAMPLE_RATE)
        heard.append(transcribe(sound))
        scores.append(quality(sound))
    marks = Marks(word_error_rate(answers, heard), sum(scores) / len(scores), list(zip(answers, heard, strict=True)))
    (folder / f"{name}-{voice}.json").write_text(json.dumps(asdict(marks), indent=1))
    told = f"WER {marks.word_error_rate:.1%}, {len(marks.wrong)} of {len(answers)} not exact, DNSMOS {marks.dnsmos:.2f}"
    print(f"{name} {voice}: {told}", flush=True)
    for wanted, got in marks.wrong:
        print(f"    {plain(wanted)} | {got}", flush=True)
    return marks


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("way", choices=("source", "codec", "talker"))
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--short", action="store_true", help="say answers of one to four words")
    parser.add_argument("--voice", choices=SPEAKERS)
    parser.add_argument("--checkpoint", type=Path, help="of the talker; else what has been trained so far")
    given = parse_options(parser)
    ways = {"source": lambda: source, "codec": lambda: from_codes, "talker": lambda: Mouth(given.checkpoint)}
    way: Way = ways[given.way]()
    answers = (
        draw_short_answers(SEED, given.answers) if given.short else draw_answers(SEED, given.answers, held_out=True)
    )
    for voice in [given.voice] if given.voice else SPEAKERS:
        evaluate(given.way, way, voice, answers)


if __name__ == "__main__":
    main()
