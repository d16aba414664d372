"""Stage "vision": the vision tower learns to say at each token whether the middle of a thing is there, and which.

The tower's output at that token is drawn to the sum of the embeddings of the thing's words ("red", "circle", "left"),
elsewhere to that of "nothing": the thinker then reads pictures as it reads text. Run as
`python -m training.mind.vision_tower`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cache import cache_folder
from training.loop import Schedule
from training.mind.marks import LABELS, NOTHING, Marks, is_right, joined, marking_loss, marks_of
from training.mind.model import new_thinker, word_direction
from training.mind.patches import pack
from training.mind.pictures import draw, moved, place
from training.mind.stage import run_stage
from training.options import parse_options, stage_parser
from training.world.words import COLOURS, DIRECTIONS, SHAPES

Batch = tuple[Tensor, Tensor, Marks]
"""Packed patches, grids int64 [pictures, 3], what is to be marked."""

CHECKED = 120
"""Pictures."""


class WordHead(nn.Module):
    """Scores the words of each label by the tower's outputs: class 0 is "nothing", then the label's words.

    The directions are the embedding table's and don't learn; their scale does.
    """

    colour: Tensor
    shape: Tensor
    direction: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(0.5)))
        self.bias = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(len(words) + 1)) for name, words in LABELS.items()}
        )
        for name, words in LABELS.items():
            rows = torch.stack([word_direction("nothing"), *map(word_direction, words)])
            self.register_buffer(name, rows)

    def forward(self, outputs: Tensor, name: str) -> Tensor:
        """float32 [tokens, hidden] → [tokens, classes]."""
        return outputs @ getattr(self, name).T * self.scale.exp() + self.bias[name]

    def ideal(self, marks: Marks, shares: Tensor) -> Tensor:
        """What the thinker would like to read, [tokens, hidden]: the sum of a thing's words, or "nothing".

        shares: of each candidate in its thing, [things, candidates].
        """
        named = torch.stack([getattr(self, name)[marks.classes[:, index]] * (marks.classes[:, index, None] != NOTHING)
                             for index, name in enumerate(LABELS)]).sum(0)  # fmt: skip
        nothing = self.colour[NOTHING]
        is_there = marks.candidates >= 0
        differs = (shares[..., None] * (named - nothing)[:, None])[is_there]
        return nothing.repeat(marks.tokens, 1).index_add(0, marks.candidates[is_there], differs)


def stage_model(visual: Any) -> nn.ModuleDict:
    """Return what this stage trains and saves: the tower, and a head for its end and for each deeper layer it feeds."""
    return nn.ModuleDict({"visual": visual, "heads": nn.ModuleList([WordHead() for _ in range(3)])})


def draw_batch(rng: np.random.Generator, tokens: int) -> Batch:
    """Draw pictures, and pairs of frames in which one thing moves, of about so many tokens in all."""
    rows: list[Tensor] = []
    grids: list[tuple[int, int, int]] = []
    marks: list[Marks] = []
    drawn = 0
    while drawn < tokens:
        patches, grid, of_one = _draw_one(rng)
        rows.append(patches)
        grids.append(grid)
        marks.append(of_one)
        drawn += of_one.tokens
    return torch.cat(rows), torch.tensor(grids), joined(marks)


def _side(rng: np.random.Generator) -> int:
    return 32 * round(math.exp(rng.uniform(math.log(2), math.log(13.4))))


def _draw_one(rng: np.random.Generator) -> tuple[Tensor, tuple[int, int, int], Marks]:
    height = _side(rng)
    width = height if rng.random() < 0.4 else int(np.clip(32 * round(height / 32 * rng.uniform(0.6, 1.7)), 64, 448))
    moves = rng.random() < 0.3
    count = 1 if moves else int(rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8]))
    kinds = [(str(rng.choice(COLOURS)), str(rng.choice(tuple(SHAPES)))) for _ in range(count)]
    if rng.random() < 0.6:  # as in the world: one or two groups
        kinds = [kinds[0 if index < count // 2 else -1] for index in range(count)]
    layout = place(kinds, height, width, rng)
    direction = str(rng.choice(DIRECTIONS)) if moves and layout.things else None
    if direction:
        layout, after = moved(layout, direction, rng)
        frames = np.stack([draw(layout), draw(after)])
    else:
        frames = draw(layout)[None]
    patches, grid = pack(frames)
    return patches, grid, marks_of(layout, direction)


def losses_of(visual: Any, heads: Any, batch: Batch) -> dict[str, Tensor]:
    """The losses of marks at the tower's end, and at a smaller share where it feeds the deeper layers."""
    patches, grids, marks = batch
    out = visual(patches, grid_thw=grids)
    things, nothing, shares = marking_loss(partial(heads[0], out.pooler_output), marks)
    deep = [
        torch.stack(marking_loss(partial(head, features), marks)[:2]).sum()
        for head, features in zip(list(heads)[1:], out.deepstack_features, strict=True)
    ]
    return {
        "things": things,
        "nothing": nothing,
        "shape of outputs": functional.mse_loss(out.pooler_output, heads[0].ideal(marks, shares)),
        "deep": torch.stack(deep).mean() * 0.3,
    }


@torch.inference_mode()
def check(visual: Any, heads: Any, seed: int) -> str:
    """Whole pictures right, thing by thing and nothing too much; and directions right."""
    rng = np.random.default_rng(seed)
    right = moves = moves_right = 0
    for _ in range(CHECKED):
        patches, grid, marks = _draw_one(rng)
        out = visual(patches, grid_thw=torch.tensor([grid])).pooler_output
        whole, directions = is_right({name: heads[0](out, name).argmax(-1) for name in LABELS}, marks)
        right += whole
        if bool((marks.classes[:, -1] != NOTHING).any()):
            moves += 1
            moves_right += directions
    return f"pictures whole {right / CHECKED:.3f}, directions {moves_right / max(moves, 1):.3f} of {moves}"


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--steps", type=int, default=12000)
    options.add_argument("--tokens", type=int, default=400, help="of a batch")
    options.add_argument("--rate", type=float, default=1.5e-3)
    given = parse_options(options)
    visual = new_thinker(1).visual
    modules = stage_model(visual)
    heads = modules["heads"]

    def loss_of(step: int) -> dict[str, Tensor]:
        return losses_of(visual, heads, draw_batch(np.random.default_rng([1, step]), given.tokens))

    schedule = Schedule(given.steps, given.rate)
    run_stage(cache_folder("mind") / "vision.pt", modules, schedule, loss_of, lambda: check(visual, heads, seed=77))


if __name__ == "__main__":
    main()
