"""Finds the pipeline stage that has the input of a layer, and where it comes from."""

from __future__ import annotations

from enum import Enum


class LayerInput(Enum):
    """Where a pipeline stage gets the input of one layer from."""

    ELSEWHERE = "another stage has it"
    RECEIVED = "the stage before sends it"
    COMPUTED = "an auxiliary output of its own forward pass"


def layer_input_of_stage(layer: int, stage: range, *, is_first: bool, is_last: bool) -> LayerInput:
    """Return where the stage with the layers `stage` gets the input of layer `layer` from.

    Only the last stage returns auxiliary hidden states, and vLLM does not keep the embeddings that the first stage
    gets. Raise ValueError where no stage can give the layer's input.
    """
    if layer not in stage:
        return LayerInput.ELSEWHERE
    if layer == stage.start and not is_first:
        return LayerInput.RECEIVED
    if layer > stage.start and is_last:
        return LayerInput.COMPUTED
    raise ValueError(
        f"pipeline_parallel_size: the talker needs the input of layer {layer}. It must be the first layer of a later "
        f"stage, or any but the first of the last stage, and one stage has layers {stage.start} to {stage.stop - 1}"
    )
