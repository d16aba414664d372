"""All figures of the trained checkpoints by one command, each failure listed:

    python -m training.evaluate FOLDER [--answers 200] [--questions 400] [--json FILE]

FOLDER holds the three checkpoints, by their names. Speech is marked by Whisper and DNSMOS, beside the voices that it
learned from; answers by whether they are exact, and what was said to the model by whether it was understood.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.local.checkpoint.kinds import Kind
from training.files import write_atomically
from training.mind.answering import Model
from training.mind.evaluate import by_kind, evaluate, failures, table
from training.options import parse_options, stage_parser
from training.speech import evaluate as speech
from training.voices import SPEAKERS
from training.world.sentences import draw_answers


def figures(folder: Path, answers: int, questions: int) -> dict[str, Any]:
    """Return the figures, and print them and the failures as they come."""
    found: dict[str, Any] = {"speech": {}, "answers": {}}
    sentences = draw_answers(speech.SEED, answers, held_out=True)
    ways: dict[str, speech.Way] = {"source": speech.source, "talker": speech.Mouth(folder / Kind.INSTRUCT.trained_name)}
    for name, way in ways.items():
        found["speech"][name] = {
            voice: asdict(speech.evaluate(name, way, voice, sentences if name == "talker" else sentences[:50]))
            for voice in SPEAKERS
        }
    for kind in Kind:
        outcomes = evaluate(Model(folder / kind.trained_name), kind, questions)
        print(f"{kind}\n{failures(outcomes)}{table(outcomes)}", flush=True)
        found["answers"][kind] = by_kind(outcomes)
    return found


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--answers", type=int, default=200, help="spoken in each voice")
    options.add_argument("--questions", type=int, default=400, help="asked of each checkpoint")
    options.add_argument("--json", type=Path, help="write the figures here")
    given = parse_options(options)
    found = figures(given.folder, given.answers, given.questions)
    if given.json:
        text = json.dumps(found, indent=1) + "\n"
        write_atomically(given.json, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
