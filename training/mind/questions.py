"""What a person asks in the small world, typed or spoken, and what a truthful model answers: facts alone, no media."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.world.facts import Scene, Sum, draw_sum
from training.world.sentences import (
    capital,
    count_answer,
    said_answer,
    scene_answer,
    scene_question,
    sum_answer,
    sum_question,
)
from training.world.words import COLOURS, GREETINGS, SHAPES, SOUNDS, number

UNKNOWN = "That is no colour or shape or sound."
"""The answer to what is outside the world: of its own words, so that it can be spoken."""

SIGNS = {"plus": "+", "minus": "-", "times": "*"}


@dataclass(frozen=True)
class Asked:
    """A question in small letters, its answer, the thought before it ("" where there is none to be had), and a kind."""

    text: str
    answer: str
    thought: str
    kind: str


def ask_sum(rng: random.Random) -> Asked:
    fact = draw_sum(rng)
    return Asked(sum_question(fact, rng), sum_answer(fact), count_through(fact), "sum")


def count_through(fact: Sum) -> str:
    """Think a sum through: count on, count back, or add up once for each time, in words."""
    left, right = fact.left, fact.right
    if fact.operation == "plus":
        steps = [left + step for step in range(right + 1)]
    elif fact.operation == "minus":
        steps = [left - step for step in range(right + 1)]
    else:
        steps = [left * step for step in range(right + 1)]
    return " then ".join(map(number, steps))


def ask_greeting(rng: random.Random) -> Asked:
    said = rng.choice(tuple(GREETINGS))
    return Asked(said, GREETINGS[said], f"you said {said}", "greeting")


def ask_number(rng: random.Random) -> Asked:
    """A number alone, or after "say": the model says what it understood."""
    said = number(rng.randint(0, 100))
    if rng.random() < 0.3:
        return Asked(f"say {said}.", capital(said), f"say {said}", "number")
    return Asked(said, said_answer(said), f"you said {said}", "number")


def ask_unknown(rng: random.Random) -> Asked:
    return Asked(_unknown(rng), UNKNOWN, "nothing", "unknown")


def ask_scene(scene: Scene, rng: random.Random) -> Asked:
    """Ask what there is to see or hear. An empty scene is one where nothing was sent."""
    question = scene_question(scene, rng)
    if scene.direction and not scene.sounds and "hear" in question:
        question = "what do you see?"
    return Asked(question, scene_answer(scene), _thought(scene), _kind(scene))


def ask_count(scene: Scene, rng: random.Random) -> Asked:
    shapes = tuple(SHAPES)
    shape = rng.choice(
        (*(group.shape for group in scene.groups), *(group.shape for group in scene.groups), rng.choice(shapes))
    )
    question = rng.choice(("how many {} are there?", "how many {} do you see?", "how many {}?"))
    return Asked(question.format(SHAPES[shape]), count_answer(scene, shape), _thought(scene), "count")


def ask_colour(scene: Scene, rng: random.Random) -> Asked:
    """Ask for a colour by the shape, or for a shape by the colour: the answer names both."""
    group = rng.choice(scene.groups)
    named = group.shape if group.count == 1 else SHAPES[group.shape]
    verb = "is" if group.count == 1 else "are"
    by_shape = (f"what colour {verb} the {named}?", f"which colour {verb} the {named}?")
    by_colour = (f"which shape is {group.colour}?", f"what is {group.colour}?")
    kind, questions = rng.choice((("colour", by_shape), ("shape", by_colour)))
    return Asked(rng.choice(questions), scene_answer(Scene((group,))), _thought(scene), kind)


def ask_whether(scene: Scene, rng: random.Random) -> Asked:
    """Ask whether there is a shape of a colour, or a sound; half of the answers are yes."""
    truly = rng.random() < 0.5
    if scene.sounds and (not scene.groups or rng.random() < 0.5):
        sound = rng.choice(scene.sounds if truly else [name for name in SOUNDS if name not in scene.sounds])
        return Asked(f"do you hear {SOUNDS[sound]}?", "Yes." if truly else "No.", _thought(scene), "whether sound")
    group = rng.choice(scene.groups)
    colour, shape = group.colour, group.shape
    if not truly:
        others = [(c, s) for c in COLOURS for s in SHAPES if all((c, s) != (g.colour, g.shape) for g in scene.groups)]
        near = [(c, s) for c, s in others if (c == colour) != (s == shape)]
        colour, shape = rng.choice(near)
    article = "an" if colour == "orange" else "a"
    question = rng.choice((f"is there {article} {colour} {shape}?", f"do you see {article} {colour} {shape}?"))
    return Asked(question, "Yes." if truly else "No.", _thought(scene), "whether shape")


def ask_about(scene: Scene, rng: random.Random) -> Asked:
    """Ask anything that the scene answers."""
    ways: list[Callable[[Scene, random.Random], Asked]] = [ask_scene, ask_scene]
    if scene.groups and not scene.direction:
        ways += [*[ask_count] * 4, *[ask_colour] * 3]
    if scene.groups or scene.sounds:
        ways += [ask_whether] * 6
    return rng.choice(ways)(scene, rng)


def ask_memory(said: list[str], rng: random.Random) -> Asked:
    """Ask for what was said in an earlier turn. `said`: each turn's words, at least one."""
    if len(said) > 1 and rng.random() < 0.4:
        return Asked("what did i say first?", said_answer(said[0]), "first", "memory")
    return Asked("what did i say before?", said_answer(said[-1]), "before", "memory")


def ask_without_scene(rng: random.Random) -> Asked:
    """Ask for media that were not sent."""
    if rng.random() < 0.5:
        return Asked("what do you see?", "I see nothing.", "nothing", "nothing sent")
    return Asked("what do you hear?", "I hear nothing.", "nothing", "nothing sent")


def typed(asked: str, rng: random.Random) -> str:
    """Write a question as people type: with or without capitals and marks; sums also in figures and signs."""
    words = asked.split()
    if asked in _FIGURES and rng.random() < 0.3:
        return _FIGURES[asked]
    if any(sign in words for sign in SIGNS) and rng.random() < 0.35:
        asked = _in_figures(asked)
    roll = rng.random()
    if roll < 0.45:
        asked = asked[0].upper() + asked[1:].replace(" i ", " I ")
    if roll > 0.75:
        asked = asked.rstrip("?.")
    return asked


_FIGURES = {number(value): str(value) for value in range(101)}


def _in_figures(asked: str) -> str:
    """ "what is twelve plus three?" → "what is 12 + 3?"; of numbers up to ten."""
    figures = {number(value): str(value) for value in range(11)} | SIGNS
    mark = asked[-1] if asked[-1] in "?." else ""
    return " ".join(figures.get(word, word) for word in asked.rstrip("?.").split()) + mark


def _thought(scene: Scene) -> str:
    return scene_answer(scene).lower().rstrip(".")


def _kind(scene: Scene) -> str:
    if scene.direction:
        return "film with sound" if scene.sounds else "film"
    return "picture" if scene.groups else "sound"


_THINGS = (
    *("president", "weather", "capital of france", "moon", "car", "house", "football", "pizza", "doctor", "train"),
    *("computer", "money", "river", "dog", "story", "poem", "song", "history of rome", "best film", "price of milk"),
    *("queen", "internet", "recipe for bread", "news", "stock market", "ocean", "garden", "teacher", "school", "book"),
)
_ABOUT = (
    *("who is the {}?", "tell me about the {}.", "where is the {}?", "why is the {} so big?", "write a {} for me."),
    *("how do i get a {}?", "explain the {} please.", "can you buy a {}?", "what does the {} cost?", "{}"),
    *("do you like the {}?", "when was the {} made?", "translate {} into german.", "i want a {}."),
    *("what is a {}?", "how many {} are there?", "what colour is the {}?", "please describe the {}."),
)


def _unknown(rng: random.Random) -> str:
    return rng.choice(_ABOUT).format(rng.choice(_THINGS))
