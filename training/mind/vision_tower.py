"""Stage "vision": the vision tower learns to say at each token whether the middle of a thing is there, and which.

The tower's output at that token is drawn to the sum of the embeddings of the thing's words ("red", "circle", "left"),
elsewhere to that of "nothing": the thinker then reads pictures as it reads text. Run as
`python -m training.mind.vision_tower`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cache import cache_folder
from training.loop import Schedule
from training.mind.model import new_thinker, word_direction
from training.mind.patches import pack
from training.mind.pictures import centres, draw, moved, place
from training.mind.stage import run_stage
from training.options import parse_options, stage_parser
from training.world.words import COLOURS, DIRECTIONS, SHAPES

LABELS = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "direction": DIRECTIONS}
NOTHING = 0
Targets = dict[str, Tensor]


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

    def ideal(self, targets: Targets) -> Tensor:
        """What the thinker would like to read, [tokens, hidden]: the sum of a thing's words, or "nothing"."""
        rows = (targets["colour"] == NOTHING)[:, None] * self.colour[NOTHING]
        for name, classes in targets.items():
            rows = rows + getattr(self, name)[classes] * (classes != NOTHING)[:, None]
        return rows


def draw_batch(rng: np.random.Generator, tokens: int) -> tuple[Tensor, Tensor, Targets]:
    """Draw pictures, and pairs of frames in which one thing moves, of about so many tokens in all.

    Return packed patches, grids int64 [pictures, 3] and the classes of each token by label, int64 [tokens].
    """
    rows: list[Tensor] = []
    grids: list[tuple[int, int, int]] = []
    classes: dict[str, list[Tensor]] = {name: [] for name in LABELS}
    drawn = 0
    while drawn < tokens:
        patches, grid, targets = _draw_one(rng)
        rows.append(patches)
        grids.append(grid)
        drawn += len(targets["colour"])
        for name, values in targets.items():
            classes[name].append(values)
    return torch.cat(rows), torch.tensor(grids), {name: torch.cat(values) for name, values in classes.items()}


def _side(rng: np.random.Generator) -> int:
    return 32 * round(math.exp(rng.uniform(math.log(2), math.log(13.4))))


def _draw_one(rng: np.random.Generator) -> tuple[Tensor, tuple[int, int, int], Targets]:
    height = _side(rng)
    width = height if rng.random() < 0.4 else int(np.clip(32 * round(height / 32 * rng.uniform(0.6, 1.7)), 64, 448))
    moves = rng.random() < 0.3
    count = 1 if moves else int(rng.choice([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12]))
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
    targets = {name: torch.zeros(len(patches) // 4, dtype=torch.long) for name in LABELS}
    for token, thing in centres(layout):
        targets["colour"][token] = 1 + COLOURS.index(thing.colour)
        targets["shape"][token] = 1 + tuple(SHAPES).index(thing.shape)
        targets["direction"][token] = 1 + DIRECTIONS.index(direction) if direction else NOTHING
    return patches, grid, targets


def losses_of(visual: Any, heads: Any, batch: tuple[Tensor, Tensor, Targets]) -> dict[str, Tensor]:
    """The cross-entropy of each label at the tower's end, and at a smaller share where it feeds the deeper layers."""
    patches, grids, targets = batch
    out = visual(patches, grid_thw=grids)
    things = targets["colour"] > 0
    weight = torch.where(things, 4.0, 1.0)
    losses: dict[str, Tensor] = {}
    for name in LABELS:
        each = functional.cross_entropy(heads[0](out.pooler_output, name), targets[name], reduction="none")
        share = things.float() if name == "direction" else weight
        losses[name] = (each * share).sum() / share.sum().clamp(min=1)
    deep = [
        (functional.cross_entropy(head(features, name), targets[name], reduction="none") * weight).sum() / weight.sum()
        for head, features in zip(list(heads)[1:], out.deepstack_features, strict=True)
        for name in ("colour", "shape")
    ]
    losses["shape of outputs"] = functional.mse_loss(out.pooler_output, heads[0].ideal(targets))
    losses["deep"] = torch.stack(deep).mean() * 0.3
    return losses


@torch.inference_mode()
def check(visual: Any, heads: Any, seed: int) -> str:
    """Whole pictures right, thing by thing and nothing too much; and directions right."""
    rng = np.random.default_rng(seed)
    right = pictures = moves = moves_right = 0
    while pictures < 120:
        patches, grid, targets = _draw_one(rng)
        out = visual(patches, grid_thw=torch.tensor([grid])).pooler_output
        found = {name: heads[0](out, name).argmax(-1) for name in LABELS}
        things = targets["colour"] > 0
        same = all(bool((found[name] == targets[name]).all()) for name in ("colour", "shape"))
        right, pictures = right + same, pictures + 1
        if bool((targets["direction"] > 0).any()):
            moves += 1
            moves_right += bool((found["direction"][things] == targets["direction"][things]).all())
    return f"pictures whole {right / pictures:.3f}, directions {moves_right / max(moves, 1):.3f} of {moves}"


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--tokens", type=int, default=400, help="of a batch")
    given = parse_options(options)
    visual = new_thinker(1).visual
    heads = nn.ModuleList([WordHead() for _ in range(3)])

    def loss_of(step: int) -> dict[str, Tensor]:
        return losses_of(visual, heads, draw_batch(np.random.default_rng([1, step]), given.tokens))

    modules = {"visual": visual, "heads": heads}
    schedule = Schedule(given.steps, rate=1.5e-3)
    run_stage(cache_folder("mind") / "vision.pt", modules, schedule, loss_of, lambda: check(visual, heads, seed=77))


if __name__ == "__main__":
    main()
