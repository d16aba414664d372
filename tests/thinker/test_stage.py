"""Which pipeline stage has the talker's hidden states: the input of layer 24 of 48 layers, as in Instruct."""

from __future__ import annotations

from itertools import pairwise

import pytest

from services.thinker.engine.stage import LayerInput, layer_input_of_stage

LAYERS, LAYER = 48, 24


def stages(*ends: int, layer: int = LAYER) -> list[LayerInput]:
    bounds = [0, *ends]
    return [
        layer_input_of_stage(layer, range(begin, end), is_first=begin == 0, is_last=end == LAYERS)
        for begin, end in pairwise(bounds)
    ]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((48,), [LayerInput.COMPUTED]),
        ((24, 48), [LayerInput.ELSEWHERE, LayerInput.RECEIVED]),
        ((20, 48), [LayerInput.ELSEWHERE, LayerInput.COMPUTED]),
        ((12, 24, 36, 48), [LayerInput.ELSEWHERE, LayerInput.ELSEWHERE, LayerInput.RECEIVED, LayerInput.ELSEWHERE]),
    ],
)
def test_one_stage_has_the_hidden_states(ends: tuple[int, ...], expected: list[LayerInput]) -> None:
    assert stages(*ends) == expected


@pytest.mark.parametrize("ends", [(16, 32, 48), (32, 48)])
def test_a_split_that_hides_the_hidden_states_is_refused(ends: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"pipeline_parallel_size: .* input of layer 24\. .* one stage has layers \d+ to 31$"
    ):
        stages(*ends)


def test_embeddings_are_not_hidden_states() -> None:
    with pytest.raises(ValueError, match="layer 0"):
        stages(48, layer=0)
