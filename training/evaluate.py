"""All figures of the trained checkpoints by one command, each failure listed:

    python -m training.evaluate [--answers 200] [--questions 400]

They are those of the checkpoints in the tree, and are written beside them, to figures.json. Speech is marked by Whisper
and DNSMOS, beside the voices that it learned from; answers by whether they are exact, and what was said to the model by
whether it was understood.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.trained import TRAINED_DIR
from training.files import write_atomically
from training.mind.answering import Model
from training.mind.evaluate import by_kind, evaluate, failures, table
from training.options import parse_options, stage_parser
from training.speech import evaluate as speech
from training.voices import SPEAKERS
from training.world.sentences import draw_answers, draw_short_answers

COMPARED = 50
"""Sentences of the voices that the model learned from, and short answers."""


def figures(folder: Path, answers: int, questions: int) -> dict[str, Any]:
    """Return the figures, and print them and the failures as they come."""
    found: dict[str, Any] = {"speech": {}, "answers": {}}
    sentences = draw_answers(speech.SEED, answers, held_out=True)
    short = draw_short_answers(speech.SEED, COMPARED)
    talker: speech.Way = speech.Mouth(folder / Kind.INSTRUCT.trained_name)
    rows: tuple[tuple[str, speech.Way, list[str]], ...] = (
        ("source", speech.source, sentences[:COMPARED]),
        ("source-short", speech.source, short),
        ("talker", talker, sentences),
        ("talker-short", talker, short),
    )
    for name, way, said in rows:
        found["speech"][name] = {voice: _told(speech.evaluate(name, way, voice, said)) for voice in SPEAKERS}
    for kind in Kind:
        outcomes = evaluate(Model(folder / kind.trained_name), kind, questions)
        print(f"{kind}\n{failures(outcomes)}{table(outcomes)}", flush=True)
        found["answers"][kind] = by_kind(outcomes) | {"wrong": [asdict(one) for one in outcomes if not one.is_exact]}
    return found


def _told(marks: speech.Marks) -> dict[str, Any]:
    return {
        "answers": len(marks.pairs),
        "word_error_rate": marks.word_error_rate,
        "dnsmos": marks.dnsmos,
        "wrong": marks.wrong,
    }


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--answers", type=int, default=200, help="spoken in each voice")
    options.add_argument("--questions", type=int, default=400, help="asked of each checkpoint")
    given = parse_options(options)
    found = figures(TRAINED_DIR, given.answers, given.questions)
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(TRAINED_DIR / "figures.json", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
