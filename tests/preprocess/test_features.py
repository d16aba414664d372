"""Features and prompts equal those of transformers' Qwen3OmniMoeProcessor: every tensor, every token."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from services.preprocess.features import FeatureExtractor, PreparedItem
from services.preprocess.prompt import Placeholder, expand, interleave
from tests.preprocess.media_files import Samples, moving_picture, photograph, tone
from tests.preprocess.rig import decode_kwargs


def unpack(item: PreparedItem) -> dict[str, torch.Tensor]:
    return decode_kwargs(item.kwargs)


def sound(samples: int, seed: int = 0) -> Samples:
    return tone(samples / 16_000, hz=200 + 37 * seed, seed=seed)[:, 0]


def film(frames: int = 8, seed: int = 0) -> Any:
    pictures = moving_picture(frames + seed, (64, 64))[seed:]
    return np.stack(pictures).transpose(0, 3, 1, 2).copy()


@dataclass
class Frames:
    """A film in memory."""

    pictures: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pictures.shape

    def read(self, start: int, stop: int) -> Any:
        return self.pictures[start:stop]


def template(extractor: FeatureExtractor, *content: dict[str, str]) -> str:
    return extractor.processor.apply_chat_template(
        [{"role": "user", "content": list(content)}], tokenize=False, add_generation_prompt=True
    )


IMAGE, AUDIO, VIDEO = ({"type": kind, kind: ""} for kind in ("image", "audio", "video"))
TEXT = {"type": "text", "text": "What is this?"}


def token_ids(extractor: FeatureExtractor, text: str) -> list[int]:
    return extractor.processor.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("size", [(96, 64), (300, 451), (33, 1000), (5, 7)])
def test_an_image_equals_transformers(extractor: FeatureExtractor, size: tuple[int, int]):
    pixels = np.asarray(Image.fromarray(photograph()).resize(size))
    text = template(extractor, IMAGE, TEXT)
    expected = extractor.processor(text=[text], images=[Image.fromarray(pixels)], return_tensors="pt")
    item = extractor.image(pixels, None, None)
    tensors = unpack(item)
    assert torch.equal(tensors["pixel_values"], expected["pixel_values"])
    assert torch.equal(tensors["image_grid_thw"], expected["image_grid_thw"][0])
    assert item.shape.grid == tuple(expected["image_grid_thw"][0].tolist())
    out = expand(token_ids(extractor, text), [Placeholder("image", item.shape)], extractor.tokens)
    assert out.token_ids == expected["input_ids"][0].tolist()


def test_pixel_bounds_apply_to_the_images_resize(extractor: FeatureExtractor):
    size = {"shortest_edge": 64 * 1024, "longest_edge": 80 * 1024}
    expected = extractor.processor(
        text=["<|image_pad|>"],
        images=[Image.fromarray(photograph())],
        images_kwargs={"size": size},
        return_tensors="pt",
    )
    item = extractor.image(photograph(), size["shortest_edge"], size["longest_edge"])
    assert torch.equal(unpack(item)["pixel_values"], expected["pixel_values"])
    assert 64 <= item.shape.tokens <= 80
    height, width = photograph().shape[:2]
    assert extractor.image_tokens(height, width, size["shortest_edge"], size["longest_edge"]) == item.shape.tokens


@pytest.mark.parametrize("samples", [201, 401, 479, 800, 16_000, 27_200, 27_201, 27_359, 32_080, 212_800])
def test_a_sound_of_any_length_equals_transformers(extractor: FeatureExtractor, samples: int):
    text = template(extractor, AUDIO, TEXT)
    expected = extractor.processor(text=[text], audio=[sound(samples)], return_tensors="pt")
    item = extractor.audio(sound(samples), 0)
    tensors = unpack(item)
    frames = int(expected["feature_attention_mask"].sum())
    assert torch.equal(tensors["input_audio_features"], expected["input_features"][0, :, :frames])
    assert int(tensors["audio_feature_lengths"]) == frames
    assert tensors["feature_attention_mask"].tolist() == [1.0] * frames
    out = expand(token_ids(extractor, text), [Placeholder("audio", item.shape)], extractor.tokens)
    assert out.token_ids == expected["input_ids"][0].tolist()


@pytest.mark.parametrize("lengths", [(20_800, 35_200), (35_200, 20_800, 35_199), (16_000, 16_040), (27_201, 48_003)])
def test_several_sounds_equal_transformers_batch(extractor: FeatureExtractor, lengths: tuple[int, ...]):
    sounds = [sound(n, i) for i, n in enumerate(lengths)]
    text = template(extractor, *[AUDIO] * len(sounds), TEXT)
    expected = extractor.processor(text=[text], audio=sounds, return_tensors="pt")
    items = [extractor.audio(s, min(max(lengths) - s.size, extractor.max_tail)) for s in sounds]
    for i, item in enumerate(items):
        frames = int(expected["feature_attention_mask"][i].sum())
        ours = unpack(item)["input_audio_features"]
        torch.testing.assert_close(ours, expected["input_features"][i, :, :frames], rtol=0, atol=1e-6)
    out = expand(token_ids(extractor, text), [Placeholder("audio", item.shape) for item in items], extractor.tokens)
    assert out.token_ids == expected["input_ids"][0].tolist()


def test_a_longer_sound_changes_only_the_others_last_frame(extractor: FeatureExtractor):
    alone, beside = (unpack(extractor.audio(sound(20_800), tail))["input_audio_features"] for tail in (0, 200))
    assert torch.equal(alone[:, :-1], beside[:, :-1])
    assert not torch.equal(alone[:, -1], beside[:, -1])


@pytest.mark.parametrize("chunk_pixels", [1, 3 * 448 * 320, 1 << 30])
def test_a_film_in_chunks_equals_transformers(
    extractor: FeatureExtractor, chunk_pixels: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.preprocess.features._CHUNK_PIXELS", chunk_pixels)
    test_a_film_equals_transformers(extractor, 2.0)


@pytest.mark.parametrize("fps", [2.0, 1.0, 4.0])
def test_a_film_equals_transformers(extractor: FeatureExtractor, fps: float):
    frames = np.stack(moving_picture(8, (448, 320))).transpose(0, 3, 1, 2).copy()
    text = template(extractor, VIDEO, TEXT)
    expected = extractor.processor(text=[text], videos=[torch.from_numpy(frames)], fps=fps, return_tensors="pt")
    item = extractor.video(Frames(frames), fps, use_audio=False)
    tensors = unpack(item)
    assert torch.equal(tensors["pixel_values_videos"], expected["pixel_values_videos"])
    assert torch.equal(tensors["video_grid_thw"], expected["video_grid_thw"][0])
    assert torch.equal(tensors["second_per_grid_ts"], expected["video_second_per_grid"][0])
    assert item.shape.seconds_per_grid == 2 / fps
    assert not tensors["use_audio_in_video"]
    out = expand(token_ids(extractor, text), [Placeholder("video", item.shape)], extractor.tokens)
    assert out.token_ids == expected["input_ids"][0].tolist()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # of the yardstick
@pytest.mark.parametrize("fps", [2.0, 1.28, 5.0])
def test_sound_in_a_film_is_interleaved_as_transformers_does(extractor: FeatureExtractor, fps: float):
    frames, track, question = film(8), sound(70_000), sound(30_000, 1)
    text = template(extractor, AUDIO, VIDEO, TEXT)
    expected = extractor.processor(
        text=[text],
        audio=[question, track],
        videos=[torch.from_numpy(frames)],
        videos_kwargs={"fps": fps, "do_resize": False, "use_audio_in_video": True, "cap_pixels_per_frame": True},
        return_tensors="pt",
    )
    picture = extractor.video(Frames(frames), fps, use_audio=True)
    asked, track_features = extractor.audio(question, 200), extractor.audio(track, 0)
    placeholders = [Placeholder("audio", asked.shape), Placeholder("video", picture.shape, track_features.shape)]
    out = expand(token_ids(extractor, text), placeholders, extractor.tokens)
    assert out.token_ids == expected["input_ids"][0].tolist()
    span, sound_span = out.spans[1]
    assert sound_span is not None
    assert span.is_embed is not None
    assert sound_span.is_embed is not None
    assert (span.is_embed.sum(), sound_span.is_embed.sum()) == (picture.shape.tokens, track_features.shape.tokens)
    assert out.token_ids[span.offset] == extractor.tokens.audio_start
    assert out.token_ids[span.offset + span.length - 1] == extractor.tokens.audio_end
    assert unpack(picture)["use_audio_in_video"]


def test_a_picture_comes_before_the_sound_of_the_same_moment(extractor: FeatureExtractor):
    video = extractor.video(Frames(film(4)), 2.0, use_audio=True).shape
    track_features = extractor.audio(sound(32_000), 0).shape
    ids = interleave(video, track_features, extractor.tokens)
    per_grid = video.tokens // 2
    assert (ids[1 : 1 + per_grid] == extractor.tokens.video).all()
    assert (ids[1 + per_grid : 1 + per_grid + 13] == extractor.tokens.audio).all()
    assert ids[1 + per_grid + 13] == extractor.tokens.video


def test_pixels_travel_as_a_byte_each(extractor: FeatureExtractor):
    picture, video = extractor.image(photograph(), None, None), extractor.video(Frames(film()), 2.0, use_audio=False)
    overhead = 6000  # the table and the grid
    pixels = 32 * 32 * picture.shape.tokens
    assert 3 * pixels < len(picture.kwargs) < 3 * pixels + overhead
    assert film().size < len(video.kwargs) < film().size + overhead


def test_features_have_the_engines_dtype(tiny_instruct: Any):
    narrow = FeatureExtractor(tiny_instruct, "bfloat16")
    assert unpack(narrow.audio(sound(16_000), 0))["input_audio_features"].dtype == torch.bfloat16
    assert unpack(narrow.video(Frames(film()), 1.9, use_audio=False))["second_per_grid_ts"].dtype == torch.float32


def test_a_hash_covers_content_and_options(extractor: FeatureExtractor):
    names = {
        extractor.item_hash("image", "a", **extractor.image_size(None, None)),
        extractor.item_hash("image", "b", **extractor.image_size(None, None)),
        extractor.item_hash("image", "a", **extractor.image_size(8192, None)),
        extractor.item_hash("audio", "a", tail=0),
        extractor.item_hash("audio", "a", tail=200),
    }
    assert len(names) == 5
    assert extractor.item_hash("audio", "a", tail=0) in names
    explicit = extractor.image_size(extractor.image_min_pixels, extractor.image_max_pixels)
    assert extractor.item_hash("image", "a", **explicit) in names


def test_a_hash_covers_dtype_and_processor_settings(extractor: FeatureExtractor, tiny_instruct: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_instruct, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    other = tmp_path / "other"
    shutil.copytree(copy, other)
    settings = json.loads((other / "processor_config.json").read_text())
    settings["image_processor"]["image_std"] = [0.4, 0.4, 0.4]
    (other / "processor_config.json").write_text(json.dumps(settings))

    def name(extractor: FeatureExtractor) -> str:
        return extractor.item_hash("image", "a", **extractor.image_size(None, None))

    assert name(FeatureExtractor(copy, "auto")) == name(extractor)
    assert name(FeatureExtractor(copy, "bfloat16")) != name(extractor)
    assert name(FeatureExtractor(other, "auto")) != name(extractor)
