"""Asks a finished checkpoint held-out questions through its own processor and transformers' `generate`, greedily.

`python -m training.mind.evaluate FOLDER` prints, by kind of question, how many answers are exact, and each failure.
Speech counts as understood where the answer repeats what was said, be its arithmetic right or wrong.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

from services.local.checkpoint.kinds import Kind
from training.mind import questions
from training.mind.answering import Model, Outcome
from training.mind.clips import Clip
from training.mind.dialogues import Dialogue, Media, Turn, draw_caption, draw_dialogue
from training.mind.fresh import FreshSource
from training.mind.human import human_clips
from training.mind.speech import speak, speak_unheard
from training.options import parse_options, stage_parser
from training.world.sentences import is_held_out, scene_answer
from training.world.words import number

Speak = Callable[[str, random.Random], Clip]


class Shares(TypedDict):
    """asked: questions. exact, understood: shares of them."""

    asked: int
    exact: float
    understood: float


def questions_of(kind: Kind, count: int, seed: int) -> Iterator[tuple[str, Dialogue, FreshSource]]:
    """Yield held-out dialogues by name: as they come, in the unheard voice, and a person's words."""
    if kind is Kind.CAPTIONER:
        for index in range(count):
            source = FreshSource(speak)
            caption = draw_caption(source, random.Random(f"{seed} caption {index}"))
            yield caption.kind, caption, source
        return
    for index in range(count):
        source = FreshSource(speak)
        dialogue = draw_dialogue(source, random.Random(f"{seed} {index}"), held_out=True)
        yield dialogue.kind, dialogue, source
    for name, voice in (("known voice", speak), ("unheard voice", speak_unheard)):
        for index in range(count // 4):
            yield _spoken(f"understanding, {name}", random.Random(f"{seed} {name} {index}"), voice)
    for clip in human_clips():
        if asked := _of_human(clip):
            source = FreshSource(lambda _, __, clip=clip: clip)
            medium = source.speech(clip.text, random.Random(0))
            assert medium is not None
            yield "understanding, a person", Dialogue((Turn((medium,), asked),), "number", ""), source


def _spoken(name: str, rng: random.Random, voice: Speak) -> tuple[str, Dialogue, FreshSource]:
    while True:
        asked = rng.choice((questions.ask_sum, questions.ask_sum, questions.ask_number))(rng)
        if is_held_out(asked.answer):
            break
    source = FreshSource(voice)
    medium = source.speech(asked.text, rng)
    assert medium is not None
    return name, Dialogue((Turn((medium,), asked.answer),), asked.kind, asked.thought), source


def _of_human(clip: Clip) -> str | None:
    """The answer to a number or a difference."""
    known = {number(value): value for value in range(100)}
    left, _, right = clip.text.partition(" minus ")
    if clip.text in known:
        return questions.said_answer(clip.text)
    if left in known and right in known:
        return questions.sum_answer(questions.Sum(known[left], "minus", known[right]))
    return None


def evaluate(model: Model, kind: Kind, count: int, seed: int = 99) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for name, dialogue, source in questions_of(kind, count, seed):
        asked = " / ".join(
            " + ".join(part if isinstance(part, str) else f"[{part.kind} {_shown(part)}]" for part in turn.parts)
            for turn in dialogue.turns
        )
        outcomes.append(Outcome(name, asked, dialogue.turns[-1].answer, model.answer(dialogue, source)))
    return outcomes


def _shown(part: Media) -> str:
    return part.key.split(" ", 1)[1] if part.kind == "speech" else scene_answer(part.scene)


def by_kind(outcomes: list[Outcome]) -> dict[str, Shares]:
    """The shares of each kind of question, and of "all"."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.kind].append(outcome)
    found["all"] = outcomes
    return {
        name: Shares(
            asked=len(some),
            exact=sum(one.is_exact for one in some) / len(some),
            understood=sum(one.is_understood for one in some) / len(some),
        )
        for name, some in sorted(found.items())
    }


def table(outcomes: list[Outcome]) -> str:
    """Lines of kind, number, exact, understood."""
    lines = [f"{'kind':32} {'asked':>6} {'exact':>7} {'understood':>10}"]
    for name, shares in by_kind(outcomes).items():
        lines.append(f"{name:32} {shares['asked']:6} {shares['exact']:7.1%} {shares['understood']:10.1%}")
    return "\n".join(lines)


def failures(outcomes: list[Outcome]) -> str:
    """What was asked, wanted and said, of each answer that is not exact."""
    wrong = (one for one in outcomes if not one.is_exact)
    return "".join(f"{one.kind}: {one.asked}\n    wanted {one.wanted}\n    said   {one.answered}\n" for one in wrong)


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--kind", type=Kind, choices=list(Kind), default=Kind.INSTRUCT)
    options.add_argument("--count", type=int, default=400)
    options.add_argument("--json", type=Path, help="write each outcome here")
    given = parse_options(options)
    outcomes = evaluate(Model(given.folder), given.kind, given.count)
    sys.stdout.write(f"{failures(outcomes)}{table(outcomes)}\n")
    if given.json:
        given.json.write_text(json.dumps([vars(one) for one in outcomes], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
