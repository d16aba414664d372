"""What comes out of the prefix cache changes nothing, wherever the hit ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from antiphon.v1 import common_pb2
from services.common.tensors.codec import tensor_from_bytes
from services.thinker.service import Thinker
from tests.fixtures.oracle import Oracle, ThinkerOptions
from tests.talker.cases import AUDIO, Case, audio, text, turn
from tests.thinker.cases import CASES, with_sound
from tests.thinker.collect import collect
from tests.thinker.conftest import CACHE_BLOCKS, Prepare
from tests.thinker.prepared import Owner, Prepared, prepare

FIRST = {"video": common_pb2.MODALITY_VIDEO, "audio": common_pb2.MODALITY_AUDIO}
FILM = with_sound(0.5, 4)
LATER = turn("user", AUDIO, text("And this?"))
SAME_SPAN = {
    "another frame rate": (FILM, with_sound(0.5, 4, fps=3)),
    # Short sounds are padded to the longest of the prompt, so the film's is embedded otherwise before a longer one.
    "a longer sound later": (
        FILM,
        Case(
            [*FILM.messages, turn("assistant", text("A tone.")), LATER],
            replace(FILM.media, audios=[*FILM.media.audios, audio(1.9, 22)]),
            use_audio_in_video=True,
        ),
    ),
}

pytestmark = pytest.mark.asyncio(loop_scope="session")
BLOCK = 32


async def leave_blocks(thinker: Thinker, name: str, keep: int) -> None:
    """Fills all of the cache but the `keep` blocks used last."""
    left = CACHE_BLOCKS - 1 - keep
    for part in range(0, left, 120):
        tokens = min(left - part, 120) * BLOCK - 2
        ids = [100 + (hash((name, part, at)) % 1900) for at in range(tokens)]
        await collect(thinker, Prepared(ids).request("fill", sampling={"max_tokens": 1}, tenant=f"{name}-{part}"))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("audio in video", (4, 11, 18)),
        ("image, audio and video", (2, 7)),
        ("one picture, then its sound", (2, 4, 5)),
        ("sound far longer than the picture", (3, 6)),
    ],
)
async def test_a_hit_that_ends_inside_a_media_item_changes_nothing(
    name: str, kept: tuple[int, ...], thinker: Thinker, prepared: Prepare, oracle: Oracle
) -> None:
    case = CASES[name]
    inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=case.use_audio_in_video)
    wanted = oracle.generate_from_inputs(
        inputs, thinker=ThinkerOptions(max_new_tokens=8), use_audio_in_video=case.use_audio_in_video
    )
    hits: set[int] = set()
    for keep in kept:
        request: Any = prepared(name).request(
            "hit", sampling={"max_tokens": 8}, tenant="hits", wants_hidden_states=True
        )
        await collect(thinker, request)
        thinker.rows.release("hit")
        await leave_blocks(thinker, f"{name}-{keep}", keep)
        got = await collect(thinker, request)
        assert got.rows is not None
        rows = tensor_from_bytes(thinker.rows.get(got.rows.blob.key), got.rows.dtype, tuple(got.rows.shape))
        thinker.rows.release("hit")
        assert got.token_ids == wanted.token_ids
        assert torch.allclose(rows, wanted.hidden_states, atol=1e-4, rtol=0)
        hits.add(got.done.cached_tokens)
    inside = {
        hit
        for hit in hits
        for feature in prepared(name).features
        if feature.offset < hit < feature.offset + feature.length
    }
    assert len(inside) >= len(kept) - 1


@pytest.mark.parametrize("first", ["video", "audio"])
@pytest.mark.parametrize("name", SAME_SPAN)
async def test_what_shapes_one_item_of_a_shared_span_is_known_to_the_cache(
    name: str, first: str, thinker: Thinker, oracle: Oracle, owner: Owner
) -> None:
    """A block inside a span is known to vLLM by the span's first feature alone."""
    renderer: Any = thinker.engine._llm.renderer  # type: ignore[reportPrivateUsage]
    for case in SAME_SPAN[name]:
        prompt = prepare(renderer, oracle, case)
        owner.blobs |= prompt.blobs
        prompt.features.sort(key=lambda feature: feature.modality != FIRST[first])
        inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=True)
        wanted = oracle.generate_from_inputs(
            inputs, voice=None, thinker=ThinkerOptions(max_new_tokens=8), use_audio_in_video=True
        )
        got = await collect(
            thinker, prompt.request("shared", sampling={"max_tokens": 8}, tenant=f"shared-{name}-{first}")
        )
        assert got.token_ids == wanted.token_ids
