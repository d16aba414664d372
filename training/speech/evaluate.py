"""Marks speech on held-out sentences, by its word error rate as Whisper hears it and by DNSMOS:

    python -m training.speech.evaluate {source,codec,talker} [--answers 200] [--voice ethan]

source: the voices themselves; codec: what comes back of them through codes; talker: free running with the server's
sampling. What was heard goes to a file in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.cache import cache_folder
from training.config import SAMPLE_RATE
from training.hearing import plain, quality, transcribe, word_error_rate
from training.options import parse_options, stage_parser
from training.speech.corpus import render
from training.speech.fit_codec import load_codec
from training.speech.train_code2wav import load_code2wav
from training.speech.train_talker import load_talker
from training.voices import SPEAKERS
from training.world.sentences import draw_answers

Sound = NDArray[np.float32]
SEED = 11
BATCH = 50
"""Answers that the talker says at once."""

_SAMPLES = 3
"""Sounds of each voice that are kept, to listen to."""


def decode(code2wav: Any, codes: Tensor) -> Sound:
    """Return the sound of int64 [frames, 16]."""
    with torch.inference_mode():
        return code2wav(codes.T[None])[0, 0].numpy()


def _source(answers: list[str], voice: str) -> Iterator[Sound]:
    for index, answer in enumerate(answers):
        yield (render(answer, voice, seed=SEED + index).sound / 32767).astype(np.float32)


def _codec(answers: list[str], voice: str) -> Iterator[Sound]:
    codec, code2wav = load_codec(), load_code2wav()
    for index, answer in enumerate(answers):
        yield decode(code2wav, codec.encode(render(answer, voice, seed=SEED + index)))


def _talker(answers: list[str], voice: str) -> Iterator[Sound]:
    talker, code2wav = load_talker(), load_code2wav()
    for begin in range(0, len(answers), BATCH):
        for codes in talker.speak(answers[begin : begin + BATCH], voice, seed=SEED + begin):
            yield decode(code2wav, codes) if len(codes) else np.zeros(SAMPLE_RATE // 10, np.float32)


_WAYS: dict[str, Callable[[list[str], str], Iterator[Sound]]] = {"source": _source, "codec": _codec, "talker": _talker}


def evaluate(way: str, voice: str, answers: list[str]) -> float:
    """Return the word error rate of a voice, print it, DNSMOS and each failure, and keep all that was heard."""
    folder = cache_folder("speech") / "heard"
    folder.mkdir(exist_ok=True)
    heard, scores = list[str](), list[float]()
    for index, sound in enumerate(_WAYS[way](answers, voice)):
        if index < _SAMPLES:
            soundfile.write(folder / f"{way}-{voice}-{index}.wav", sound, SAMPLE_RATE)
        heard.append(transcribe(sound))
        scores.append(quality(sound))
    rate, mos = word_error_rate(answers, heard), sum(scores) / len(scores)
    pairs = list(zip(answers, heard, strict=True))
    wrong = [pair for pair in pairs if plain(pair[0]) != pair[1]]
    (folder / f"{way}-{voice}.json").write_text(
        json.dumps({"word_error_rate": rate, "dnsmos": mos, "pairs": pairs}, indent=1)
    )
    told = f"WER {100 * rate:.1f} %, {len(wrong)} of {len(pairs)} sentences not exact, DNSMOS {mos:.2f}"
    print(f"{way} {voice}: {told}", flush=True)
    for wanted, got in wrong:
        print(f"    {plain(wanted)} | {got}", flush=True)
    return rate


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("way", choices=_WAYS)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--voice", choices=SPEAKERS)
    given = parse_options(parser)
    answers = draw_answers(SEED, given.answers, held_out=True)
    for voice in [given.voice] if given.voice else SPEAKERS:
        evaluate(given.way, voice, answers)


if __name__ == "__main__":
    main()
