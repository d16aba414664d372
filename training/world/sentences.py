"""The sentences of the world: questions as a person puts them, and the answers.

Answers begin with a capital and end with a full stop. Which answers are held out is a property of the sentence, so that
every stage agrees: no held-out sentence is in any training data, in no medium and no voice.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence

from training.world.facts import Scene, Sum, draw_film, draw_picture, draw_recording, draw_sum
from training.world.words import GREETINGS, SHAPES, SOUNDS, number, words_of

HELD_OUT_PER_MILLE = 80

NUMBERS = range(-10, 101)
"""All that are said alone."""


def is_held_out(sentence: str) -> bool:
    """Tell whether a sentence is for evaluation alone. Case and punctuation don't count; short ones are for training.

    Of four words and more, 8 % are held out: "Two plus three is five.", "I see three red circles.". Counts are not:
    there are twenty answers to "how many?", and who never meets "There are three squares." learns that it is false.
    """
    return may_be_held_out(sentence) and zlib.crc32(" ".join(words_of(sentence)).encode()) % 1000 < HELD_OUT_PER_MILLE


def may_be_held_out(sentence: str) -> bool:
    """Tell whether a sentence is of a kind that has held-out ones."""
    words = words_of(sentence)
    return len(words) >= 4 and words[0] != "there"


def capital(words: str) -> str:
    """Return a sentence: "two red circles" → "Two red circles."; the word "i" becomes "I"."""
    text = " ".join("I" if word == "i" else word for word in words.split())
    return f"{text[0].upper()}{text[1:]}."


def sum_question(fact: Sum, rng: random.Random) -> str:
    asked = f"{number(fact.left)} {fact.operation} {number(fact.right)}"
    return rng.choice((f"what is {asked}?", f"{asked} equals?", f"{asked}?", f"tell me {asked}.", f"{asked} is what?"))


def sum_answer(fact: Sum) -> str:
    return capital(f"{number(fact.left)} {fact.operation} {number(fact.right)} is {number(fact.result)}")


def groups_of(scene: Scene) -> str:
    """Return "three red circles and a blue star"; "nothing" where there is no group."""
    named: list[str] = []
    for group in scene.groups:
        article = "an" if group.colour == "orange" else "a"
        many = f"{number(group.count)} {group.colour} {SHAPES[group.shape]}"
        named.append(f"{article} {group.colour} {group.shape}" if group.count == 1 else many)
    return " and ".join(named) or "nothing"


def sounds_of(scene: Scene) -> str:
    """Return "a bell and then rain"; "nothing" where there is no sound."""
    return " and then ".join(SOUNDS[sound] for sound in scene.sounds) or "nothing"


def scene_answer(scene: Scene) -> str:
    """Say all that there is: "I see two red stars.", "I hear a bell.", "I see a red star that moves left and I hear
    a bell.".
    """
    seen = groups_of(scene) + (f" that moves {scene.direction}" if scene.direction else "")
    if scene.groups and scene.sounds:
        return capital(f"i see {seen} and i hear {sounds_of(scene)}")
    return capital(f"i hear {sounds_of(scene)}" if scene.sounds else f"i see {seen}")


def scene_question(scene: Scene, rng: random.Random) -> str:
    if scene.direction or (scene.groups and scene.sounds):
        return rng.choice(("what is in the film?", "describe the film.", "what do you see and hear?"))
    if scene.sounds:
        return rng.choice(("what do you hear?", "what is that sound?", "which sound is that?", "describe the sound."))
    return rng.choice(("what do you see?", "what is in the picture?", "describe the picture."))


def count_answer(scene: Scene, shape: str) -> str:
    """Answer "how many circles are there?": "There are three circles.", "There is one circle.", "There are no …"."""
    count = sum(group.count for group in scene.groups if group.shape == shape)
    if count == 1:
        return capital(f"there is one {shape}")
    return capital(f"there are {number(count) if count else 'no'} {SHAPES[shape]}")


def said_answer(said: str) -> str:
    """Answer "what did i say before?": "You said two plus three."."""
    return capital("you said " + said.lower().rstrip(".?! "))


def draw_answer(rng: random.Random) -> str:
    """Draw an answer of any kind, held-out ones among them: what the talker must be able to say."""
    return rng.choice(_ANSWERS)(rng)


def draw_answers(seed: int, count: int, *, held_out: bool) -> list[str]:
    """Draw so many answers, either all held out (and all different) or all for training; the same for a seed."""
    rng, drawn = random.Random(f"{seed} {held_out}"), list[str]()
    while len(drawn) < count:
        answer = draw_answer(rng)
        if is_held_out(answer) == held_out and not (held_out and answer in drawn):
            drawn.append(answer)
    return drawn


def draw_short_answers(seed: int, count: int) -> list[str]:
    """Draw so many different answers of a few words. Most are in the training: too short to be held out."""
    numbers = [number(value) for value in NUMBERS]
    short = [*map(capital, numbers), *map(said_answer, numbers), "Yes.", "No.", *GREETINGS.values()]
    return random.Random(seed).sample(short, count)


def _draw_said(rng: random.Random) -> str:
    fact = draw_sum(rng)
    asked = f"{number(fact.left)} {fact.operation} {number(fact.right)}"
    said: Sequence[str] = (asked, asked, number(rng.randint(0, 20)), rng.choice(tuple(GREETINGS)))
    return said_answer(rng.choice(said))


def _draw_count(rng: random.Random) -> str:
    scene, shapes = draw_picture(rng), tuple(SHAPES)
    return count_answer(scene, rng.choice((scene.groups[0].shape, scene.groups[0].shape, rng.choice(shapes))))


def _draw_short(rng: random.Random) -> str:
    number_alone = capital(number(rng.choice(NUMBERS)))
    return rng.choice((number_alone, number_alone, "Yes.", "No.", *GREETINGS.values()))


_ANSWERS: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: sum_answer(draw_sum(rng)),
    lambda rng: sum_answer(draw_sum(rng)),
    lambda rng: scene_answer(draw_picture(rng)),
    lambda rng: scene_answer(draw_picture(rng)),
    lambda rng: scene_answer(draw_recording(rng)),
    lambda rng: scene_answer(draw_film(rng, has_sound=False)),
    lambda rng: scene_answer(draw_film(rng, has_sound=True)),
    _draw_said,
    _draw_count,
    _draw_short,
)
