"""Where a thing is marked: at exactly one of the tokens that its middle may be said to lie in.

Near the border of two tokens, which one has the middle is a matter of single pixels. A hard label there teaches to mark
both or neither, and whoever counts counts wrong. So the loss asks that one of them has the mark, whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.mind.pictures import CELL, Layout
from training.world.words import COLOURS, DIRECTIONS, SHAPES

LABELS = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "direction": DIRECTIONS}
NOTHING = 0
"""Class of every label; a label's words follow."""

BORDER = 5.0
"""A middle so many pixels from a token or nearer may be marked there."""

MOST_CANDIDATES = 4
THING_WEIGHT = 4.0
"""Of a thing's loss beside that of a token with nothing: things are few."""

Scores = Callable[[str], Tensor]
"""Label → logits float32 [tokens, classes]."""


@dataclass(frozen=True)
class Marks:
    """What is to be marked in pictures of so many tokens.

    candidates: int64 [things, MOST_CANDIDATES], numbers of tokens, -1 where there are fewer. classes: int64 [things,
    labels], in the order of LABELS.
    """

    tokens: int
    candidates: Tensor
    classes: Tensor


def marks_of(layout: Layout, direction: str | None) -> Marks:
    """Return the marks of one picture, or of two frames of a film in which things move in a direction."""
    rows, columns = layout.height // CELL, layout.width // CELL
    places = [_candidates(t.x * layout.width, t.y * layout.height, rows, columns) for t in layout.things]
    homes = {candidates[0] for candidates in places}
    found = [[place for place in candidates if place == candidates[0] or place not in homes] for candidates in places]
    moving = 1 + DIRECTIONS.index(direction) if direction else NOTHING
    classes = [(1 + COLOURS.index(t.colour), 1 + tuple(SHAPES).index(t.shape), moving) for t in layout.things]
    padded = [places + [-1] * (MOST_CANDIDATES - len(places)) for places in found]
    return Marks(
        rows * columns,
        torch.tensor(padded, dtype=torch.long).reshape(-1, MOST_CANDIDATES),
        torch.tensor(classes, dtype=torch.long).reshape(-1, len(LABELS)),
    )


def _candidates(x: float, y: float, rows: int, columns: int) -> list[int]:
    """The token that has the point first, then those within BORDER of it."""
    across, down = _cells(x, columns), _cells(y, rows)
    return [row * columns + column for row in down for column in across]


def _cells(at: float, count: int) -> list[int]:
    home = min(int(at) // CELL, count - 1)
    near = [home - 1] if at - home * CELL < BORDER else [home + 1] if (home + 1) * CELL - at < BORDER else []
    return [home, *(cell for cell in near if 0 <= cell < count)]


def joined(each: Sequence[Marks]) -> Marks:
    """Marks of pictures whose tokens follow each other."""
    moved, before = list[Tensor](), 0
    for one in each:
        moved.append(torch.where(one.candidates >= 0, one.candidates + before, -1))
        before += one.tokens
    return Marks(before, torch.cat(moved), torch.cat([one.classes for one in each]))


def marking_loss(scores: Scores, marks: Marks) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of things, that of tokens with nothing, and each candidate's share of its thing [things, 4].

    A thing's loss is the negative log of the chance that one of its candidates has its words and the others nothing.
    Both losses are shares of one mean, in which a thing weighs THING_WEIGHT.
    """
    said = {name: scores(name).log_softmax(-1) for name in LABELS}
    nothing = said["colour"][:, NOTHING] + said["shape"][:, NOTHING]
    is_there = marks.candidates >= 0
    at = marks.candidates.clamp(min=0)
    named = torch.stack([said[name][at, marks.classes[:, None, index]] for index, name in enumerate(LABELS)]).sum(0)
    empty = torch.where(is_there, nothing[at], 0.0)
    alone = (named + empty.sum(1, keepdim=True) - empty).masked_fill(~is_there, -torch.inf)
    is_free = torch.ones(marks.tokens, dtype=torch.bool)
    is_free[marks.candidates[is_there]] = False
    whole = THING_WEIGHT * len(at) + is_free.sum()
    things = -alone.logsumexp(1).sum() * THING_WEIGHT / whole
    return things, -(nothing * is_free).sum() / whole, alone.detach().softmax(1)


def is_right(found: dict[str, Tensor], marks: Marks) -> tuple[bool, bool]:
    """Tell of one picture whether each thing has one mark, by colour and shape, and there is no other; and whether the
    marks of things have their directions. found: classes by label, int64 [tokens].
    """
    marked = (found["colour"] != NOTHING) | (found["shape"] != NOTHING)
    whole, directions = int(marked.sum()) == len(marks.classes), True
    for candidates, (colour, shape, direction) in zip(marks.candidates.tolist(), marks.classes.tolist(), strict=True):
        places = [place for place in candidates if place >= 0 and marked[place]]
        whole &= len(places) == 1
        whole &= all(found["colour"][place] == colour and found["shape"][place] == shape for place in places)
        directions &= bool(places) and all(found["direction"][place] == direction for place in places)
    return whole, directions
