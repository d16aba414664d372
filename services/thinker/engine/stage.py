"""Which stage of a pipeline has the input of a layer, and how it comes by it."""

from __future__ import annotations

from enum import Enum


class Rows(Enum):
    """How a stage has the rows that go into one layer."""

    NONE = "another stage has them"
    GIVEN = "they are what the stage before it sends"
    SEEN = "its own forward pass shows them"


def rows_of_stage(layer: int, stage: range, *, is_first: bool, is_last: bool) -> Rows:
    """For the input of layer `layer`, in the stage that has the layers `stage`. vLLM lets us look into the forward pass
    of a pipeline's last stage alone, and what a first stage is given are embeddings, which it does not keep.

    Raises ValueError where the split puts the layer where nothing shows its input.
    """
    if layer not in stage:
        return Rows.NONE
    if layer == stage.start and not is_first:
        return Rows.GIVEN
    if layer > stage.start and is_last:
        return Rows.SEEN
    raise ValueError(
        f"pipeline_parallel_size: layer {layer}, whose input the talker needs, must be the first one of a later stage "
        f"or inside the last stage, and one stage has layers {stage.start} to {stage.stop - 1}"
    )
