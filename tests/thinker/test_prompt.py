"""Malformed prompts and features, which are refused before they reach the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vllm.multimodal.inputs import MultiModalBatchedField, MultiModalFieldElem, MultiModalKwargsItem
from vllm.v1.serial_utils import MsgpackEncoder

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.errors import BadInput, ContextTooLong
from services.common.model_card import read_model_card
from services.common.pixels import LEVEL_TABLE
from services.gateway.realtime.prefill import AUDIO_WINDOW_S
from services.thinker import prompt
from services.thinker.checkpoint import Checkpoint
from services.thinker.features import FeatureCache, audio_tokens, decode_item, most_bytes
from services.thinker.hidden_states.positions import media_spans_of_user_turns, overlaps
from services.thinker.prompt import LARGE_BYTES, Limits, PromptBuilder, cache_salt
from tests.thinker.prepared import Owner

AUDIO, IMAGE = common_pb2.MODALITY_AUDIO, common_pb2.MODALITY_IMAGE
Pads = dict[str, int]


@pytest.fixture(scope="module")
def checkpoint(tiny_instruct: Path) -> Checkpoint:
    return Checkpoint(tiny_instruct, read_model_card(tiny_instruct, "tiny", "auto", 256))


@pytest.fixture(scope="module")
def pads(checkpoint: Checkpoint) -> Pads:
    return checkpoint.placeholders


@pytest.fixture
def builder(checkpoint: Checkpoint) -> PromptBuilder:
    limits = Limits({"image": 1, "audio": 2, "video": 0}, item_tokens=64)
    return PromptBuilder(checkpoint, limits, FeatureCache(1 << 20), Owner())


def feature(offset: int, length: int, modality: Any = AUDIO, **fields: Any) -> preprocess_pb2.Feature:
    fields.setdefault("hash", f"h{offset}")
    return preprocess_pb2.Feature(modality=modality, offset=offset, length=length, **fields)


def bits(*takes: int) -> bytes:
    return np.packbits(np.array(takes, dtype=np.bool_)).tobytes()


def test_a_well_formed_prompt_passes(builder: PromptBuilder, pads: Pads) -> None:
    prompt = [1, pads["audio"], pads["audio"], 2, pads["image"], 3, pads["audio"]]
    mixed = [feature(1, 2), feature(3, 2, IMAGE, is_embed=bits(0, 1)), feature(5, 2, is_embed=bits(0, 1))]
    placed = builder.check(prompt, [], mixed)
    assert [(item.modality, item.tokens) for item in placed] == [("audio", 2), ("image", 1), ("audio", 1)]


@pytest.mark.parametrize(
    ("features", "param"),
    [
        pytest.param([], "features", id="placeholders without features"),
        pytest.param([feature(1, 2)], "features", id="one placeholder without a feature"),
        pytest.param([feature(1, 3), feature(3, 1)], "features[1]", id="two features on one placeholder"),
        pytest.param([feature(1, 2), feature(3, 2)], "features[1].offset", id="past the end"),
        pytest.param([feature(0, 3)], "features[0]", id="a text token inside"),
        pytest.param([feature(1, 0)], "features[0].offset", id="empty"),
        pytest.param([feature(2**32 - 1, 2**32 - 1)], "features[0].offset", id="far out"),
        pytest.param([feature(1, 3, IMAGE)], "features[0]", id="the wrong placeholder"),
        pytest.param([feature(1, 3, common_pb2.MODALITY_TEXT)], "features[0].modality", id="no modality"),
        pytest.param([feature(1, 3, 77)], "features[0].modality", id="an unknown modality"),
        pytest.param([feature(1, 3, hash="")], "features[0].hash", id="no hash"),
        pytest.param([feature(1, 3, is_embed=b"\xff\xff")], "features[0].is_embed", id="a mask too long"),
        pytest.param([feature(1, 3, is_embed=bits(0, 0, 0))], "features[0]", id="a mask of nothing"),
        pytest.param([feature(1, 1), feature(2, 1), feature(3, 1)], "messages", id="too many items"),
        pytest.param([feature(1, 1), feature(2, 2)], "features", id="two items without text between"),
        pytest.param([feature(1, 3, is_embed=bits(1, 0, 1)), feature(2, 1)], "features", id="two that alternate"),
    ],
)
def test_features_that_do_not_fit_the_prompt_are_refused(
    builder: PromptBuilder, pads: Pads, features: list[preprocess_pb2.Feature], param: str
) -> None:
    with pytest.raises(BadInput) as refused:
        builder.check([5, pads["audio"], pads["audio"], pads["audio"]], [], features)
    assert refused.value.param == param


def test_an_item_longer_than_a_step_is_refused(builder: PromptBuilder, pads: Pads) -> None:
    with pytest.raises(BadInput, match="65 tokens"):
        builder.check([pads["audio"]] * 65, [], [feature(0, 65)])


@pytest.mark.parametrize(("prompt", "generated"), [([], []), ([2304], []), ([1], [2304])])
def test_ids_outside_the_vocabulary_and_empty_prompts_are_refused(
    builder: PromptBuilder, prompt: list[int], generated: list[int]
) -> None:
    with pytest.raises(BadInput):
        builder.check(prompt, generated, [])


def test_a_prompt_without_room_for_an_answer_is_too_long(builder: PromptBuilder) -> None:
    builder.check([1] * 255, [], [])
    with pytest.raises(ContextTooLong) as refused:
        builder.check([1] * 256, [], [])
    assert refused.value.param == "messages"


def test_each_tenant_has_its_own_salt() -> None:
    assert cache_salt("a") != cache_salt("b")
    assert cache_salt("a") == cache_salt("a")


def test_audio_tokens_are_counted_as_transformers_counts_them() -> None:
    from transformers.models.qwen3_omni_moe import processing_qwen3_omni_moe as reference

    lengths: Any = reference._get_feat_extract_output_lengths  # pyright: ignore[reportPrivateUsage]

    frames = torch.arange(1, 3100)
    assert [audio_tokens(int(n)) for n in frames] == lengths(frames).tolist()


@pytest.mark.parametrize("data", [b"", b"\x00", b"not msgpack", b"\x80", b"\x81\xa1x\xc0" * 3])
def test_bytes_that_do_not_decode_are_refused(checkpoint: Checkpoint, data: bytes) -> None:
    with pytest.raises(BadInput):
        decode_item(data, "audio", 3, checkpoint, "features[0].kwargs")


def picture(**changed: torch.Tensor) -> bytes:
    """Return an item of one token, its pixels as levels."""
    tensors = {
        "pixel_values": torch.randint(0, 256, (4, 3 * 16 * 16), dtype=torch.uint8),
        "image_grid_thw": torch.tensor([1, 2, 2]),
        LEVEL_TABLE: torch.linspace(-1, 1, 256).expand(3, 256).contiguous(),
    } | changed
    elems = {name: MultiModalFieldElem(data, MultiModalBatchedField()) for name, data in tensors.items()}
    data: Any
    (data,) = MsgpackEncoder(size_threshold=1 << 62).encode(MultiModalKwargsItem(elems))
    return bytes(data)


def test_pixels_stay_levels_on_their_way_to_the_engine(checkpoint: Checkpoint) -> None:
    item: Any = decode_item(picture(), "image", 1, checkpoint, "features[0].kwargs").get_data()
    assert (item["pixel_values"].dtype, item[LEVEL_TABLE].shape) == (torch.uint8, (3, 256))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"pixel_values": torch.zeros(4, 3 * 16 * 16)}, id="values with a table"),
        pytest.param({"pixel_values": torch.zeros(4, 3 * 16 * 16, dtype=torch.int64)}, id="wide levels"),
        pytest.param({"pixel_values": torch.zeros(4, 2 * 3 * 16 * 16, dtype=torch.uint8)}, id="a still picture twice"),
        pytest.param({LEVEL_TABLE: torch.zeros(3, 255)}, id="a short table"),
        pytest.param({LEVEL_TABLE: torch.zeros(3, 256, dtype=torch.float64)}, id="a wide table"),
        pytest.param({LEVEL_TABLE: torch.full((3, 256), torch.inf)}, id="an endless value"),
    ],
)
def test_levels_that_do_not_fit_are_refused(checkpoint: Checkpoint, changed: dict[str, torch.Tensor]) -> None:
    with pytest.raises(BadInput):
        decode_item(picture(**changed), "image", 1, checkpoint, "features[0].kwargs")


async def test_a_feature_of_impossible_size_is_not_pulled(
    builder: PromptBuilder, checkpoint: Checkpoint, pads: Pads
) -> None:
    for size in (0, most_bytes("audio", 2, checkpoint) + 1):
        kwargs = common_pb2.BlobRef(owner="nobody:1", key="k", size_bytes=size)
        placed = builder.check([pads["audio"]] * 2, [], [feature(0, 2, kwargs=kwargs)])
        with pytest.raises(BadInput) as refused:
            await builder.build([pads["audio"]] * 2, [], placed, "tenant")
        assert refused.value.param == "features[0].kwargs"


@pytest.mark.parametrize("known", [False, True], ids=["pulled", "in the cache"])
async def test_a_large_item_is_decoded_off_the_event_loop(
    checkpoint: Checkpoint, pads: Pads, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    threads: list[int] = []

    def decode(*_: object) -> None:
        threads.append(threading.get_ident())
        raise BadInput("not decoded here")

    monkeypatch.setattr(prompt, "decode_item", decode)
    cache, owner = FeatureCache(1 << 22), Owner()
    builder = PromptBuilder(checkpoint, Limits({"image": 1, "audio": 0, "video": 0}, item_tokens=64), cache, owner)
    for size in (100, LARGE_BYTES + 1):
        kwargs = common_pb2.BlobRef(owner="nobody:1", key=str(size), size_bytes=size)
        owner.blobs[kwargs.key] = bytes(size)
        if known:
            cache.put("tenant", str(size), bytes(size))
        item = feature(0, 64, IMAGE, kwargs=kwargs, hash=str(size))
        placed = builder.check([pads["image"]] * 64, [], [item])
        with pytest.raises(BadInput, match="not decoded here"):
            await builder.build([pads["image"]] * 64, [], placed, "tenant")
    assert owner.pulled == ([] if known else ["100", str(LARGE_BYTES + 1)])
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


def test_the_gateway_reads_ahead_by_the_windows_of_the_audio_encoder(checkpoint: Checkpoint) -> None:
    """A mel frame is 10 ms."""
    assert checkpoint.audio_window_frames == 100 * AUDIO_WINDOW_S


def test_the_cache_evicts_the_least_recently_used() -> None:
    cache = FeatureCache(100)
    cache.put("t", "a", b"x" * 40)
    cache.put("t", "b", b"y" * 40)
    assert cache.get("t", "a") == b"x" * 40
    cache.put("t", "c", b"z" * 40)
    assert cache.get("t", "b") is None
    assert cache.get("other", "a") is None
    cache.put("t", "large", b"." * 101)
    assert cache.used_bytes == 80


def turn_ids(checkpoint: Checkpoint) -> Callable[..., list[int]]:
    tokens = checkpoint.turn_tokens

    def turn(role: int, *content: int) -> list[int]:
        return [tokens.im_start, role, 7, *content, 9, 7]

    return turn


def test_only_media_in_user_turns_have_hidden_states(checkpoint: Checkpoint, pads: Pads) -> None:
    turn, user, other = turn_ids(checkpoint), checkpoint.turn_tokens.user, 3
    prompt = turn(other, pads["image"]) + turn(user, pads["audio"], pads["video"], 5, pads["image"]) + turn(other, 5)
    spans = media_spans_of_user_turns(prompt, checkpoint.turn_tokens)
    assert spans == [(9, 11), (12, 13)]
    assert overlaps(spans, 10, 13) == [(10, 11), (12, 13)]
