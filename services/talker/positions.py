"""Positions of the talker's prompt: multimodal RoPE over the talker's own ids.

The rules are those of transformers' `get_rope_index` as the talker calls it, which differs from the thinker's call:
`use_audio_in_video` is never passed. So a video with its sound counts plainly, like text; but where an image or a plain
video comes after it in the same prompt, it is laid out in time, picture and sound interleaved. (transformers 5.19)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

import torch
from torch import Tensor

from antiphon.v1 import common_pb2
from services.common.errors import BadInput
from services.talker.checkpoint import SpeechConfig


def prompt_positions(
    ids: Sequence[int],
    image_grids: Sequence[common_pb2.MediaGrid],
    video_grids: Sequence[common_pb2.MediaGrid],
    config: SpeechConfig,
) -> Tensor:
    """Positions (time, height, width) of each id: float32 [3, len(ids)].

    The grids belong to the media in `ids`, in order. Each later row's position is the last one plus 1 on all axes.
    Raises BadInput where grids and ids do not match.
    """
    return _Layout(ids, image_grids, video_grids, config).positions()


class _Layout:
    def __init__(
        self,
        ids: Sequence[int],
        image_grids: Sequence[common_pb2.MediaGrid],
        video_grids: Sequence[common_pb2.MediaGrid],
        config: SpeechConfig,
    ) -> None:
        self._ids, self._config = ids, config
        self._images, self._videos = iter(image_grids), iter(video_grids)
        self._blocks: list[Tensor] = []
        self._next = 0.0
        self._text = 0  # plain rows not yet laid out
        openings = list(pairwise(ids))
        self._images_left = openings.count((config.vision_start_id, config.image_pad_id))
        self._videos_left = openings.count((config.vision_start_id, config.video_pad_id))
        sounding = openings.count((config.vision_start_id, config.audio_start_id))
        if len(image_grids) < self._images_left or len(video_grids) < self._videos_left + sounding:
            raise BadInput("there are more images or videos in the prompt than grids", param="grids")

    def positions(self) -> Tensor:
        config, index = self._config, 0
        while index < len(self._ids):
            opening = tuple(self._ids[index : index + 2])
            if opening == (config.vision_start_id, config.image_pad_id):
                index = self._vision(index, next(self._images), config.position_id_per_seconds)
                self._images_left -= 1
            elif opening == (config.vision_start_id, config.video_pad_id):
                grid = next(self._videos)
                index = self._vision(index, grid, grid.seconds_per_grid, config.position_id_per_seconds)
                self._videos_left -= 1
            elif opening == (config.vision_start_id, config.audio_start_id):
                index = self._sounding_video(index, next(self._videos))
            else:
                self._text += 1
                index += 1
        self._flush_text()
        return torch.cat(self._blocks, dim=1)

    def _run(self, start: int, *kinds: int) -> list[int]:
        return list(takewhile(lambda token: token in kinds, self._ids[start:]))

    def _flush_text(self) -> None:
        if self._text:
            self._blocks.append(torch.arange(self._text, dtype=torch.float32).expand(3, -1) + self._next)
            self._next += self._text
            self._text = 0

    def _grid(self, grid: common_pb2.MediaGrid, found: int, *time_scale: float) -> Tensor:
        """Positions of a picture's or a video's rows, from 0."""
        height, width = (size // self._config.spatial_merge_size for size in (grid.h, grid.w))
        if grid.t * height * width != found:
            raise BadInput("a grid does not match the placeholders in the prompt", param="grids")
        time = torch.arange(grid.t)
        for scale in time_scale:  # one factor after the other, in float32, as transformers rounds
            time = time * torch.tensor(scale, dtype=torch.float32)
        axes = torch.meshgrid(time.float(), torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
        return torch.stack([axis.flatten() for axis in axes])

    def _vision(self, index: int, grid: common_pb2.MediaGrid, *time_scale: float) -> int:
        """Lays out start marker and rows; returns the index of the end marker, which counts as text."""
        self._text += 1
        self._flush_text()
        rows = self._run(index + 1, self._ids[index + 1])
        block = self._grid(grid, len(rows), *time_scale) + self._next
        self._blocks.append(block)
        self._next = float(block.max()) + 1
        return index + 1 + len(rows)

    def _sounding_video(self, index: int, grid: common_pb2.MediaGrid) -> int:
        config = self._config
        rows = self._run(index + 2, config.audio_pad_id, config.video_pad_id)
        if not (self._images_left > 0 or self._videos_left > 0):
            self._text += 2 + len(rows)
            return index + 2 + len(rows)
        self._videos_left -= 1
        self._text += 2
        self._flush_text()
        sounds = rows.count(config.audio_pad_id)
        picture = self._grid(grid, len(rows) - sounds, grid.seconds_per_grid, config.position_id_per_seconds)
        picture = picture + self._next
        sound = torch.arange(sounds, dtype=torch.float32).expand(3, -1) + self._next
        # By time, the picture first where both begin together.
        order = torch.argsort(torch.cat((picture[0], sound[0])), stable=True)
        block = torch.cat((picture, sound), dim=1)[:, order]
        self._blocks.append(block)
        # What follows goes on after the highest position of the part where only one of the two is left.
        is_sound = order >= picture.shape[1]
        alone = int((is_sound != is_sound[-1]).nonzero().max()) + 1 if is_sound.any() and not is_sound.all() else 0
        self._next = float(block[:, alone:].max()) + 1
        return index + 2 + len(rows)
