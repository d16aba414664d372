"""vLLM 0.32.0's thinker with three fixes and pixels as bytes, and a variant that caches a hidden state for each token
beside its keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.distributed.parallel_state import get_pp_group
from vllm.model_executor.models import qwen3_omni_moe_thinker
from vllm.model_executor.models.extract_hidden_states import CacheOnlyAttentionLayer
from vllm.model_executor.models.qwen3_omni_moe_thinker import Qwen3OmniMoeThinkerForConditionalGeneration
from vllm.model_executor.models.utils import maybe_prefix
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.sequence import IntermediateTensors

from services.common.mrope import (
    MediaItem,
    audio_positions,
    join_sounds,
    position_delta,
    rope_positions,
    vision_positions,
)
from services.common.pixels import LEVEL_TABLE, values_of
from services.thinker.engine.audio import AudioBatch, embed_audio
from services.thinker.engine.patching import replace
from services.thinker.engine.rope_positions import StepRotary, encode, encode_delta
from services.thinker.engine.stage import LayerInput, layer_input_of_stage
from services.thinker.features import CHUNK_WIDTH

# vLLM reads the layer index from the one integer in a layer's name; the name gets the first free index.
CACHE_LAYER = "hidden_states"


def _has_video_and_audio(is_video: torch.Tensor, is_audio: torch.Tensor, num_video: int, num_audio: int) -> bool:
    """Return whether a step's embeddings are merged by modality.

    vLLM merges by modality only where video and audio alternate, and concatenates all embeddings otherwise. That mixes
    the two up where the audio follows the video without alternating: in a video of one temporal patch, or in the rest
    of an item after a prefix hit. Merging by modality is right for every order.
    """
    return num_video > 0 and num_audio > 0


replace(
    qwen3_omni_moe_thinker,
    "check_interleaved_audio_video",
    _has_video_and_audio,
    Qwen3OmniMoeThinkerForConditionalGeneration.embed_input_ids,
)


class ThinkerModel(Qwen3OmniMoeThinkerForConditionalGeneration):
    """vLLM's thinker with `_has_video_and_audio`, transformers' positions, and audio embeddings that do not depend on
    the batch."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        stage: Any = self.language_model.model
        layers = stage.layers[stage.start_layer : stage.end_layer]
        self.step_rotary = StepRotary(layers, vllm_config.scheduler_config.max_num_batched_tokens)

    def _parse_and_validate_audio_input(self, **kwargs: object) -> AudioBatch | None:  # type: ignore[override]
        widths: Any = kwargs.pop(CHUNK_WIDTH, None)
        parsed: Any = super()._parse_and_validate_audio_input(**kwargs)
        return parsed and AudioBatch(parsed["input_features"], parsed["audio_feature_lengths"], widths)

    def _process_audio_input(self, audio_input: AudioBatch) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        return embed_audio(self.audio_tower, audio_input)

    def _parse_and_validate_image_input(self, **kwargs: object) -> Any:
        vision: Any = self.config.vision_config
        return super()._parse_and_validate_image_input(
            **self._with_values(kwargs, "pixel_values", "image_grid_thw", repeats=vision.temporal_patch_size)
        )

    def _parse_and_validate_video_input(self, **kwargs: object) -> Any:
        return super()._parse_and_validate_video_input(
            **self._with_values(kwargs, "pixel_values_videos", "video_grid_thw", repeats=1)
        )

    def _with_values(self, kwargs: dict[str, Any], pixels: str, grid_key: str, repeats: int) -> dict[str, Any]:
        """Make values of pixels that came as levels: last of all, so that they travel as bytes up to the GPU."""
        tables = kwargs.pop(LEVEL_TABLE, None)
        if tables is not None:
            patches = kwargs[grid_key].prod(-1).tolist()
            tower: Any = self.visual
            kwargs[pixels] = values_of(kwargs[pixels], tables, patches, repeats, tower.dtype)
        return kwargs

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[torch.Tensor, int]:
        positions = rope_positions(len(input_tokens), join_sounds([self._item(feature) for feature in mm_features]))
        return encode(positions), encode_delta(position_delta(positions))

    def _item(self, feature: MultiModalFeatureSpec) -> MediaItem:
        place, data = feature.mm_position, feature.data
        if data is None:
            raise RuntimeError("a media item has no data")
        indices = place.offset + (
            np.arange(place.length) if place.is_embed is None else np.nonzero(place.is_embed.numpy())[0]
        )
        if feature.modality == "audio":
            return MediaItem(indices, audio_positions(len(indices)), is_audio=True)
        config: Any = self.config
        merge = config.vision_config.spatial_merge_size
        grid: Any = data["image_grid_thw" if feature.modality == "image" else "video_grid_thw"].data
        frames, height, width = grid.tolist()
        scale = [float(config.position_id_per_seconds)]
        if feature.modality == "video":
            seconds: Any = data["second_per_grid_ts"].data
            scale.insert(0, float(seconds))
        return MediaItem(indices, vision_positions(frames, height // merge, width // merge, *scale))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        return super().forward(input_ids, self.step_rotary(positions), intermediate_tensors, inputs_embeds, **kwargs)


class ThinkerModelWithHiddenStates(ThinkerModel):
    """Writes the input of layer accept_hidden_layer, [tokens, 1, hidden], to a cache-only layer of the KV cache.

    A hidden state lives as long as its token's keys and values. So tokens from the prefix cache have theirs, and
    chunked prefill and preemption need no bookkeeping. In a pipeline one stage writes them: the stage that begins with
    that layer receives them, or the last stage computes them (engine/stage.py).
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        config: Any = vllm_config.model_config.hf_config
        text = config.thinker_config.text_config
        layer: int = config.talker_config.accept_hidden_layer
        stage: Any = self.language_model.model
        group = get_pp_group()
        self._layer_input = layer_input_of_stage(
            layer,
            range(stage.start_layer, stage.end_layer),
            is_first=group.is_first_rank,
            is_last=group.is_last_rank,
        )
        if self._layer_input is LayerInput.COMPUTED:
            self.set_aux_hidden_state_layers((layer,))
        if self._layer_input is not LayerInput.ELSEWHERE:
            self.hidden_states = CacheOnlyAttentionLayer(
                num_heads=1,
                head_size=text.hidden_size,
                cache_config=vllm_config.cache_config,
                prefix=maybe_prefix(prefix, f"{CACHE_LAYER}.{text.num_hidden_layers}"),
            )

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        layer_input: torch.Tensor | None = None
        if self._layer_input is LayerInput.RECEIVED and intermediate_tensors is not None:
            given: Any = intermediate_tensors
            # Computed before the layers run, because they work in place.
            layer_input = given["hidden_states"] + given["residual"]
        output: Any = super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)
        if self._layer_input is LayerInput.COMPUTED:
            output, (layer_input,) = output
        if layer_input is not None:
            self.hidden_states(layer_input.unsqueeze(1))
        return output
