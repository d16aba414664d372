"""Positions equal what transformers computes for the talker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from antiphon.v1 import common_pb2
from services.common.errors import BadInput
from services.talker.checkpoint import SpeechConfig, SpeechModels
from services.talker.positions import prompt_positions
from tests.fixtures.oracle import Oracle

Grid = tuple[int, int, int]


class PromptBuilder:
    """Builds a prompt's ids with media in them, and the arguments that transformers needs for its positions."""

    def __init__(self, config: SpeechConfig, random: np.random.Generator) -> None:
        self.config, self.random = config, random
        self.ids: list[int] = []
        self.images: list[Grid] = []
        self.videos: list[Grid] = []
        self.seconds: list[float] = []
        self.mel_frames: list[int] = []

    def text(self) -> None:
        self.ids += self.random.integers(0, 200, int(self.random.integers(1, 6))).tolist()

    def grid(self, max_frames: int) -> Grid:
        frames, height, width = self.random.integers(1, 5, 3).tolist()
        return min(frames, max_frames), 2 * height, 2 * width

    def sound(self) -> int:
        """Add an audio clip of random length and return its number of tokens."""
        frames = int(self.random.integers(60, 420))
        self.mel_frames.append(frames)
        rest = (frames % 100 - 1) // 2 + 1
        return ((rest - 1) // 2 + 1 - 1) // 2 + 1 + frames // 100 * 13

    def audio(self) -> None:
        config = self.config
        self.ids += [config.audio_start_id, *[config.audio_pad_id] * self.sound(), 199]

    def image(self) -> None:
        grid = self.grid(1)
        self.images.append(grid)
        tokens = grid[0] * grid[1] * grid[2] // 4
        self.ids += [self.config.vision_start_id, *[self.config.image_pad_id] * tokens, 198]

    def video(self) -> None:
        grid = self.grid(4)
        self.videos.append(grid)
        self.seconds.append(float(self.random.choice([0.5, 1.0, 2.0, 0.7])))
        tokens = grid[0] * grid[1] * grid[2] // 4
        self.ids += [self.config.vision_start_id, *[self.config.video_pad_id] * tokens, 198]

    def sounding_video(self) -> None:
        config, grid = self.config, self.grid(4)
        self.videos.append(grid)
        self.seconds.append(float(self.random.choice([0.5, 1.0, 2.0])))
        tokens = [config.video_pad_id] * (grid[0] * grid[1] * grid[2] // 4) + [config.audio_pad_id] * self.sound()
        self.random.shuffle(tokens)
        self.ids += [config.vision_start_id, config.audio_start_id, *tokens, 199, 198]

    def theirs(self, talker: Any) -> torch.Tensor:
        ids = torch.tensor([self.ids])
        positions, _ = talker.get_rope_index(
            ids,
            torch.tensor(self.images) if self.images else None,
            torch.tensor(self.videos) if self.videos else None,
            torch.ones_like(ids),
            False,
            torch.tensor(self.mel_frames) if self.mel_frames else None,
            torch.tensor(self.seconds) if self.seconds else None,
        )
        return positions[:, 0].float()

    def ours(self) -> torch.Tensor:
        images = [common_pb2.MediaGrid(t=t, h=h, w=w) for t, h, w in self.images]
        videos = [
            common_pb2.MediaGrid(t=t, h=h, w=w, seconds_per_grid=seconds)
            for (t, h, w), seconds in zip(self.videos, self.seconds, strict=True)
        ]
        return prompt_positions(self.ids, images, videos, self.config)


@pytest.mark.parametrize("seed", range(60))
def test_positions_of_mixed_prompts_equal_transformers(oracle: Oracle, speech_models: SpeechModels, seed: int) -> None:
    random = np.random.default_rng(seed)
    builder = PromptBuilder(speech_models.config, random)
    kinds = [builder.audio, builder.image, builder.video]
    for index in random.integers(0, 3, int(random.integers(0, 7))):
        builder.text()
        kinds[index]()
    builder.text()
    assert torch.equal(builder.ours(), builder.theirs(oracle.model.talker))


@pytest.mark.parametrize("seed", range(40))
def test_positions_of_videos_with_sound_equal_transformers(
    oracle: Oracle, speech_models: SpeechModels, seed: int
) -> None:
    random = np.random.default_rng(seed)
    builder = PromptBuilder(speech_models.config, random)
    kinds = [builder.audio, builder.image, builder.sounding_video]
    for index in random.integers(0, 3, int(random.integers(1, 6))):
        builder.text()
        kinds[index]()
    builder.text()
    assert torch.equal(builder.ours(), builder.theirs(oracle.model.talker))


def test_a_marker_in_a_users_text_counts_as_text(speech_models: SpeechModels) -> None:
    config = speech_models.config
    ids = [5, config.vision_start_id, 6, config.audio_start_id, 7]
    assert prompt_positions(ids, [], [], config)[0].tolist() == [0, 1, 2, 3, 4]


def test_a_grid_that_does_not_fit_its_placeholders_is_refused(speech_models: SpeechModels) -> None:
    config = speech_models.config
    ids = [config.vision_start_id, *[config.image_pad_id] * 4, 198]
    with pytest.raises(BadInput) as refused:
        prompt_positions(ids, [common_pb2.MediaGrid(t=1, h=4, w=6)], [], config)
    assert refused.value.param == "grids"


def test_an_image_without_a_grid_is_refused(speech_models: SpeechModels) -> None:
    config = speech_models.config
    with pytest.raises(BadInput) as refused:
        prompt_positions([config.vision_start_id, config.image_pad_id, 198], [], [], config)
    assert refused.value.param == "grids"
