"""The streaming decoder, which carries state, equals code2wav's decode of all frames at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from services.talker.checkpoint import SpeechModels
from services.talker.code2wav.decoder import CodecDecoder

FRAMES = 160  # more than twice the transformer's window of 72


@pytest.fixture(scope="module")
def code2wav(speech_models: SpeechModels) -> Any:
    """Return code2wav in double precision: random weights amplify rounding, which could hide a fault."""
    return copy.deepcopy(speech_models.code2wav).double()


@pytest.fixture(scope="module")
def codes() -> Tensor:
    return torch.randint(0, 256, (FRAMES, 16), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def whole(code2wav: Any, codes: Tensor) -> Tensor:
    return code2wav(codes.T[None]).reshape(-1).float()


def decode(decoder: CodecDecoder, codes: Tensor, groups: list[int], slot: int = 1) -> Tensor:
    """Decode one stream, its frames in groups of these sizes."""
    parts: list[Tensor] = []
    before = 0
    for group in groups:
        num_past_frames = min(before, decoder.settled_frames)
        part = codes[None, before : before + group]
        parts.append(
            decoder.decode(torch.tensor([slot]), torch.tensor([before]), part, num_past_frames=num_past_frames)[0]
        )
        before += group
    return torch.cat(parts)


@pytest.mark.parametrize("groups", [[1] * FRAMES, [FRAMES], [1, 2, 3, 71, 83], [90, 70], [4, *[13] * 12]], ids=len)
def test_any_grouping_of_frames_gives_the_same_samples(code2wav: Any, codes: Tensor, groups: list[int]) -> None:
    decoder = CodecDecoder(code2wav, frames_at_once=max(groups))
    expected = whole(code2wav, codes)
    assert expected.std() > 0.01
    torch.testing.assert_close(decode(decoder, codes, groups), expected, atol=1e-5, rtol=0)


def test_streams_of_a_batch_do_not_disturb_each_other(code2wav: Any, codes: Tensor) -> None:
    decoder = CodecDecoder(code2wav, slots=3)
    streams = {1: codes[:20], 2: codes[:20].flip(1), 3: codes[20:40]}
    parts: dict[int, list[Tensor]] = {slot: [] for slot in streams}
    for step in range(23):  # each slot starts one step after the last
        live = [slot for slot in streams if 0 <= step - slot < 20]
        for num_past_frames in (0, 1):
            slots = [slot for slot in live if min(step - slot, 1) == num_past_frames]
            if not slots:
                continue
            frames = torch.stack([streams[slot][step - slot : step - slot + 1] for slot in slots])
            starts = torch.tensor([step - slot for slot in slots])
            for slot, part in zip(
                slots, decoder.decode(torch.tensor(slots), starts, frames, num_past_frames=num_past_frames), strict=True
            ):
                parts[slot].append(part)
    for slot, mine in parts.items():
        torch.testing.assert_close(torch.cat(mine), whole(code2wav, streams[slot]), atol=1e-5, rtol=0)


def test_a_reopened_slot_starts_from_empty_state(code2wav: Any, codes: Tensor) -> None:
    decoder = CodecDecoder(code2wav)
    decode(decoder, codes.flip(0), [1] * 90)
    torch.testing.assert_close(decode(decoder, codes, [1] * 90), whole(code2wav, codes[:90]), atol=1e-5, rtol=0)


def test_a_frame_depends_only_on_its_context(code2wav: Any, codes: Tensor) -> None:
    decoder, last = CodecDecoder(code2wav), FRAMES - 1
    expected = whole(code2wav, codes)[-1920:]
    other = codes.clone()
    other[: last - decoder.context_frames] = 0
    torch.testing.assert_close(whole(code2wav, other)[-1920:], expected, atol=1e-9, rtol=0)
    other[last - decoder.context_frames // 2] = 0
    assert (whole(code2wav, other)[-1920:] - expected).abs().max() > 1e-9


@pytest.mark.parametrize("frames", [1, 2, 7, 100])
def test_the_config_gives_the_number_of_samples(code2wav: Any, codes: Tensor, frames: int) -> None:
    decoder = CodecDecoder(code2wav)
    assert decoder.samples_after(frames) == 1920 * frames - 555
    assert len(whole(code2wav, codes[:frames])) == 1920 * frames - 555


def test_no_frames_give_no_samples(code2wav: Any) -> None:
    assert CodecDecoder(code2wav).samples_after(0) == 0


def test_each_frame_after_the_first_gives_1920_samples(code2wav: Any, codes: Tensor) -> None:
    decoder = CodecDecoder(code2wav)
    assert [len(decode(decoder, codes, [1] * frames)) for frames in (1, 2, 3)] == [1365, 1365 + 1920, 1365 + 2 * 1920]


def test_a_first_frame_without_samples_is_made_up_by_the_next(code2wav: Any, codes: Tensor) -> None:
    config = copy.deepcopy(code2wav.config)
    config.upsampling_ratios, config.upsample_rates = (), (8, 5, 4, 3)
    torch.manual_seed(0)
    other = type(code2wav)(config).eval()
    decoder = CodecDecoder(other)
    assert decoder.samples_after(1) == len(decode(decoder, codes, [1])) == 0
    torch.testing.assert_close(decode(decoder, codes, [1] * 5), whole(other, codes[:5]), atol=1e-5, rtol=0)
