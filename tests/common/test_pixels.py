"""Values of levels: what a processor makes of a picture, to the bit."""

from __future__ import annotations

import pytest
import torch

from services.common import pixels
from services.common.pixels import level_table, values_of

MEAN, STD = (torch.tensor(three).view(3, 1, 1) for three in ([120.0, 110.0, 100.0], [58.0, 57.0, 56.0]))


def normalise(levels: torch.Tensor) -> torch.Tensor:
    return levels.to(torch.float32).sub_(MEAN).div_(STD)


def patched(values: torch.Tensor) -> torch.Tensor:
    """Return [patches, channels × pixels] of [patches, channels, height, width]."""
    return values.flatten(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 5000, 1 << 22])
def test_values_are_the_processors(dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_LEVELS_AT_ONCE", at_once)
    pictures = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(1))
    table = level_table(normalise)
    got = values_of(patched(pictures), table[None], [9], 1, dtype)
    assert torch.equal(got, patched(normalise(pictures)).to(dtype))


def test_each_item_has_its_own_table() -> None:
    levels = torch.randint(0, 256, (7, 3 * 4), dtype=torch.uint8, generator=torch.manual_seed(2))
    tables = torch.stack([level_table(normalise), level_table(torch.negative)])
    both = values_of(levels, tables, [3, 4], 1, torch.float32)
    for item, rows in ((0, slice(0, 3)), (1, slice(3, 7))):
        alone = values_of(levels[rows], tables[item : item + 1], [len(levels[rows])], 1, torch.float32)
        assert torch.equal(both[rows], alone)


def test_a_still_pictures_frames_are_alike() -> None:
    levels = torch.arange(12, dtype=torch.uint8).view(1, 12)
    values = values_of(levels, level_table(normalise)[None], [1], 2, torch.float32).view(3, 2, 4)
    assert torch.equal(values[:, 0], values[:, 1])
    assert torch.equal(values[:, 0], values_of(levels, level_table(normalise)[None], [1], 1, torch.float32).view(3, 4))
