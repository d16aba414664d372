"""Positions equal transformers' get_rope_index for every order of media, and stay exact inside vLLM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from services.common.mrope import MediaItem, audio_positions, position_delta, rope_positions, vision_positions
from services.thinker.engine.rope_positions import decode, encode, encode_delta
from tests.fixtures.oracle import Oracle, OracleMedia
from tests.talker.cases import AUDIO, IMAGE, VIDEO, Case, audio, image, text, turn, video
from tests.thinker.cases import CASES, VIDEO_KWARGS, at_fps, with_sound

MORE = {
    "sound far shorter than the picture is wide": with_sound(0.3, 2),
    "sound longer than the picture": with_sound(6.0, 4),
    "an audio and an image around a video with sound": Case(
        [turn("user", AUDIO, text("and"), VIDEO, text("then"), IMAGE, VIDEO, text("?"))],
        OracleMedia(
            images=[image(96, 64, 1)],
            audios=[audio(1.2, 1), audio(3.1, 2), audio(0.4, 3)],
            videos=[video(6, 64, 64, 1), video(2, 64, 96, 2)],
            processor_kwargs=VIDEO_KWARGS,
        ),
        use_audio_in_video=True,
    ),
    **{f"video at {fps:.3g} frames a second": at_fps(fps, 16) for fps in (0.3, 1.92, 3, 6, 7, 240)},
    **{f"video with sound at {fps:.3g} frames a second": with_sound(3.1, 16, fps) for fps in (1.92, 4, 6, 7, 30)},
}


def items_of(config: Any, inputs: dict[str, torch.Tensor], *, use_audio_in_video: bool) -> list[MediaItem]:
    """Assign the processor's items to the runs of placeholders, both in prompt order."""
    ids, merge = inputs["input_ids"][0].numpy(), config.vision_config.spatial_merge_size
    kinds = {config.audio_token_id: "audio", config.image_token_id: "image", config.video_token_id: "video"}
    media = np.isin(ids, list(kinds))
    items: list[MediaItem] = []
    images, videos = iter(inputs.get("image_grid_thw", [])), iter(inputs.get("video_grid_thw", []))
    seconds = iter(inputs.get("video_second_per_grid", []))
    starts = [int(at) for at in np.nonzero(media & ~np.roll(media, 1))[0]]
    for start in starts:
        end = start + int(np.argmin(np.append(media[start:], False)))
        for token in dict.fromkeys(ids[start:end].tolist()):
            indices = start + np.nonzero(ids[start:end] == token)[0]
            if kinds[token] == "audio":
                items.append(MediaItem(indices, audio_positions(len(indices)), is_audio=True))
                continue
            t, h, w = (int(size) for size in next(images if kinds[token] == "image" else videos))
            scale = [1.0 if kinds[token] == "image" else float(next(seconds)), config.position_id_per_seconds]
            items.append(MediaItem(indices, vision_positions(t, h // merge, w // merge, *scale)))
    assert use_audio_in_video == any(
        {kinds[token] for token in ids[start:][: int(np.argmin(np.append(media[start:], False)))].tolist()}
        == {"audio", "video"}
        for start in starts
    )
    return items


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_positions_equal_transformers(name: str, oracle: Oracle) -> None:
    case = (CASES | MORE)[name]
    inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=case.use_audio_in_video)
    lengths = inputs["feature_attention_mask"].sum(-1) if "feature_attention_mask" in inputs else None
    wanted, delta = oracle.model.thinker.get_rope_index(
        inputs["input_ids"],
        inputs.get("image_grid_thw"),
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        case.use_audio_in_video,
        lengths,
        inputs.get("video_second_per_grid"),
    )
    items = items_of(oracle.config.thinker_config, inputs, use_audio_in_video=case.use_audio_in_video)
    got = rope_positions(inputs["input_ids"].shape[1], items)
    assert np.allclose(got, wanted[:, 0].numpy(), rtol=3e-7, atol=0)  # one ulp: transformers adds in smaller steps
    assert position_delta(got) == pytest.approx(float(delta), abs=1e-4)


def test_encoded_positions_stay_exact_after_integer_offsets() -> None:
    positions = np.concatenate(
        [np.arange(64), 1 + np.float32(13 / 3) * np.arange(3000), [0.5, 31.2, 65535.996, 262143.98]], dtype=np.float32
    )
    assert torch.equal(decode(encode(positions)), torch.from_numpy(positions))
    assert encode(np.arange(5, dtype=np.float32)).tolist() == [0, 1, 2, 3, 4]
    for delta in (0.0, -3.0, -7.8, 12.3333):
        generated = torch.tensor([encode_delta(delta) + np.int32(index) for index in (8, 9, 4000)])
        assert decode(generated).tolist() == pytest.approx([delta + index for index in (8, 9, 4000)], abs=1e-3)
