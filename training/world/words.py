"""The words of the world, by what they name."""

from __future__ import annotations

from services.local.numbers import TENS, UNITS
from services.local.numbers import number as number

OPERATIONS = ("plus", "minus", "times")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
SHAPES = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars"}
"""Singular and plural."""

SOUNDS = {
    "bell": "a bell",
    "drum": "a drum",
    "whistle": "a whistle",
    "siren": "a siren",
    "clock": "a clock",
    "bird": "a bird",
    "engine": "an engine",
    "phone": "a phone",
    "knocking": "knocking",
    "rain": "rain",
    "wind": "wind",
    "music": "music",
}
"""A dozen sounds: the name, and the words that follow "I hear"."""

DIRECTIONS = ("left", "right", "up", "down")
GREETINGS = {"hello": "Hello.", "thanks": "You are welcome.", "goodbye": "Goodbye."}
"""What is said, and the answer."""

OTHERS = (
    *("a", "an", "and", "are", "before", "colour", "did", "do", "equals", "how", "hundred", "hear", "i", "in", "is"),
    *("it", "many", "moves", "no", "nothing", "please", "said", "say", "see", "shape", "shapes", "sound", "speech"),
    *("tell", "me", "that", "the", "then", "there", "was", "welcome", "what", "which", "yes", "you", "silence"),
    *("film", "picture", "or", "describe", "first"),
)

WORDS = tuple(
    sorted({*UNITS, *TENS, *OPERATIONS, *COLOURS, *SHAPES, *SHAPES.values(), *SOUNDS, *DIRECTIONS, *GREETINGS, *OTHERS})
)


def words_of(text: str) -> list[str]:
    """Return a text's words in small letters, without punctuation and figures."""
    return "".join(c for c in text.lower() if c.isalpha() or c == " ").split()
