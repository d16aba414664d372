"""Positions of the talker's prompt: multimodal RoPE over the talker's own ids.

The rules are those of transformers' `get_rope_index` as the talker calls it. Unlike the thinker's call, it never passes
`use_audio_in_video`. So a video with sound is numbered like text. But if an image or a video without sound follows it
in the same prompt, its frames and sound are interleaved in time. (transformers 5.19)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

import numpy as np
import torch
from torch import Tensor

from antiphon.v1 import common_pb2
from services.common.errors import BadInput
from services.common.mrope import MediaItem, audio_positions, rope_positions, vision_positions
from services.talker.checkpoint import SpeechConfig


def prompt_positions(
    ids: Sequence[int],
    image_grids: Sequence[common_pb2.MediaGrid],
    video_grids: Sequence[common_pb2.MediaGrid],
    config: SpeechConfig,
) -> Tensor:
    """Return the positions (time, height, width) of each id: float32 [3, len(ids)].

    The grids belong to the media in `ids`, in order. Each later token's position is the last one plus 1 on all axes.
    Raises BadInput where grids and ids do not match.
    """
    openings = list(pairwise(ids))
    images_left = openings.count((config.vision_start_id, config.image_pad_id))
    videos_left = openings.count((config.vision_start_id, config.video_pad_id))
    videos_with_audio = openings.count((config.vision_start_id, config.audio_start_id))
    if len(image_grids) < images_left or len(video_grids) < videos_left + videos_with_audio:
        raise BadInput("The prompt has more images or videos than grids.", param="grids")
    images, videos = iter(image_grids), iter(video_grids)
    items: list[MediaItem] = []
    index = 0
    while index < len(ids):
        opening, tokens = tuple(ids[index : index + 2]), 1
        if opening == (config.vision_start_id, config.image_pad_id):
            tokens += _run_length(ids, index + 1, config.image_pad_id)
            where = np.arange(index + 1, index + tokens)
            items.append(_vision(where, next(images), config, config.position_id_per_seconds))
            images_left -= 1
        elif opening == (config.vision_start_id, config.video_pad_id):
            tokens += _run_length(ids, index + 1, config.video_pad_id)
            items.append(_video(np.arange(index + 1, index + tokens), next(videos), config))
            videos_left -= 1
        elif opening == (config.vision_start_id, config.audio_start_id):
            grid = next(videos)
            tokens = 2 + _run_length(ids, index + 2, config.audio_pad_id, config.video_pad_id)
            if images_left > 0 or videos_left > 0:
                videos_left -= 1
                is_audio = np.array(ids[index + 2 : index + tokens]) == config.audio_pad_id
                where = np.arange(index + 2, index + tokens)
                audio = where[is_audio]
                items.append(_video(where[~is_audio], grid, config))
                items.append(MediaItem(audio, audio_positions(len(audio)), is_audio=True))
        index += tokens
    return torch.from_numpy(rope_positions(len(ids), [item for item in items if len(item.indices)]))


def _run_length(ids: Sequence[int], start: int, *kinds: int) -> int:
    return len(list(takewhile(lambda token: token in kinds, ids[start:])))


def _video(
    indices: np.ndarray[tuple[int], np.dtype[np.int64]], grid: common_pb2.MediaGrid, config: SpeechConfig
) -> MediaItem:
    return _vision(indices, grid, config, grid.seconds_per_grid, config.position_id_per_seconds)


def _vision(
    indices: np.ndarray[tuple[int], np.dtype[np.int64]],
    grid: common_pb2.MediaGrid,
    config: SpeechConfig,
    *time_scale: float,
) -> MediaItem:
    height, width = (size // config.spatial_merge_size for size in (grid.h, grid.w))
    if grid.t * height * width != len(indices):
        raise BadInput("A grid does not match the placeholders in the prompt.", param="grids")
    return MediaItem(indices, vision_positions(grid.t, height, width, *time_scale))
