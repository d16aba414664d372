"""Positions equal transformers' get_rope_index, for every order of media."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from services.thinker.engine.rope_positions import Item, audio_inside, rope_positions, vision_inside
from tests.fixtures.oracle import Oracle, OracleMedia
from tests.talker.cases import AUDIO, CASES, IMAGE, VIDEO, Case, audio, image, text, turn, video

_VIDEO_KWARGS = {"videos_kwargs": {"cap_pixels_per_frame": False}}
MORE = {
    "sound far shorter than the picture is wide": Case(
        [turn("user", VIDEO, text("?"))],
        OracleMedia(audios=[audio(0.3, 1)], videos=[video(2, 64, 64, 1)], processor_kwargs=_VIDEO_KWARGS),
        use_audio_in_video=True,
    ),
    "sound longer than the picture": Case(
        [turn("user", VIDEO, text("?"))],
        OracleMedia(audios=[audio(6.0, 1)], videos=[video(4, 96, 64, 1)], processor_kwargs=_VIDEO_KWARGS),
        use_audio_in_video=True,
    ),
    "an audio and an image around a video with sound": Case(
        [turn("user", AUDIO, text("and"), VIDEO, text("then"), IMAGE, VIDEO, text("?"))],
        OracleMedia(
            images=[image(96, 64, 1)],
            audios=[audio(1.2, 1), audio(3.1, 2), audio(0.4, 3)],
            videos=[video(6, 64, 64, 1), video(2, 64, 96, 2)],
            processor_kwargs=_VIDEO_KWARGS,
        ),
        use_audio_in_video=True,
    ),
}


def items_of(config: Any, inputs: dict[str, torch.Tensor], *, use_audio_in_video: bool) -> list[Item]:
    """Runs of placeholders in prompt order take the processor's items in order."""
    ids, merge = inputs["input_ids"][0].numpy(), config.vision_config.spatial_merge_size
    kinds = {config.audio_token_id: "audio", config.image_token_id: "image", config.video_token_id: "video"}
    media = np.isin(ids, list(kinds))
    items: list[Item] = []
    images, videos = iter(inputs.get("image_grid_thw", [])), iter(inputs.get("video_grid_thw", []))
    seconds = iter(inputs.get("video_second_per_grid", []))
    starts = [int(at) for at in np.nonzero(media & ~np.roll(media, 1))[0]]
    for start in starts:
        end = start + int(np.argmin(np.append(media[start:], False)))
        for token in dict.fromkeys(ids[start:end].tolist()):
            places = start + np.nonzero(ids[start:end] == token)[0]
            if kinds[token] == "audio":
                items.append(Item(places, audio_inside(len(places))))
                continue
            t, h, w = (int(size) for size in next(images if kinds[token] == "image" else videos))
            a_frame = config.position_id_per_seconds * (1.0 if kinds[token] == "image" else float(next(seconds)))
            items.append(Item(places, vision_inside(t, h // merge, w // merge, a_frame)))
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
    got, got_delta = rope_positions(inputs["input_ids"].shape[1], items)
    assert got.tolist() == wanted[:, 0].tolist()
    assert got_delta == int(delta)
