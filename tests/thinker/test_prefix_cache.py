"""Prefix cache hits change no answer, wherever the hit ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from antiphon.v1 import common_pb2
from services.common.tensors.codec import tensor_from_bytes
from services.thinker.service import Thinker
from tests.fixtures.oracle import Oracle, OracleMedia, ThinkerOptions
from tests.talker.cases import AUDIO, Case, audio, text, turn
from tests.thinker.cases import CASES, with_sound
from tests.thinker.collect import collect
from tests.thinker.conftest import CACHE_BLOCKS, Prepare, PrepareCase
from tests.thinker.prepared import Prepared

FIRST = {"video": common_pb2.MODALITY_VIDEO, "audio": common_pb2.MODALITY_AUDIO}
FILM = with_sound(0.5, 4)
LATER = Case(
    [turn("assistant", text("A tone.")), turn("user", AUDIO, text("And this?"))],
    OracleMedia(audios=[audio(1.9, 22)]),
)
BOTH = Case(
    [*FILM.messages, *LATER.messages],
    replace(FILM.media, audios=[*FILM.media.audios, *LATER.media.audios]),
    use_audio_in_video=True,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")
BLOCK = 32


async def leave_blocks(thinker: Thinker, name: str, keep: int) -> None:
    """Evict all blocks of the cache but the `keep` most recently used."""
    left = CACHE_BLOCKS - 1 - keep
    for part in range(0, left, 120):
        tokens = min(left - part, 120) * BLOCK - 2
        ids = [100 + (hash((name, part, at)) % 1900) for at in range(tokens)]
        await collect(thinker, Prepared(ids).request("fill", sampling={"max_tokens": 1}, tenant=f"{name}-{part}"))


@pytest.mark.parametrize(
    ("name", "keep_counts"),
    [
        ("audio in video", (4, 11, 18)),
        ("image, audio and video", (2, 7)),
        ("one picture, then its sound", (2, 4, 5)),
        ("sound far longer than the picture", (3, 6)),
    ],
)
async def test_a_hit_that_ends_inside_a_media_item_changes_nothing(
    name: str, keep_counts: tuple[int, ...], thinker: Thinker, prepared: Prepare, oracle: Oracle
) -> None:
    case = CASES[name]
    inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=case.use_audio_in_video)
    wanted = oracle.generate_from_inputs(
        inputs, thinker=ThinkerOptions(max_new_tokens=8), use_audio_in_video=case.use_audio_in_video
    )
    hits: set[int] = set()
    for keep in keep_counts:
        request: Any = prepared(name).request(
            "hit", sampling={"max_tokens": 8}, tenant="hits", wants_hidden_states=True
        )
        await collect(thinker, request)
        thinker.hidden_states.release("hit")
        await leave_blocks(thinker, f"{name}-{keep}", keep)
        got = await collect(thinker, request)
        assert got.hidden_states is not None
        hidden_states = tensor_from_bytes(
            thinker.hidden_states.get(got.hidden_states.blob.key),
            got.hidden_states.dtype,
            tuple(got.hidden_states.shape),
        )
        thinker.hidden_states.release("hit")
        assert got.token_ids == wanted.token_ids
        assert torch.allclose(hidden_states, wanted.hidden_states, atol=1e-4, rtol=0)
        hits.add(got.done.cached_tokens)
    inside = {
        hit
        for hit in hits
        for feature in prepared(name).features
        if feature.offset < hit < feature.offset + feature.length
    }
    assert len(inside) >= len(keep_counts) - 1


async def assert_as_fresh(thinker: Thinker, oracle: Oracle, case: Case, prompt: Prepared, tenant: str) -> None:
    inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=True)
    wanted = oracle.generate_from_inputs(
        inputs, voice=None, thinker=ThinkerOptions(max_new_tokens=8), use_audio_in_video=True
    )
    got = await collect(thinker, prompt.request("shared", sampling={"max_tokens": 8}, tenant=tenant))
    assert got.token_ids == wanted.token_ids


@pytest.mark.parametrize("first", FIRST)
async def test_a_film_at_another_frame_rate_misses_the_cache(
    first: str, prepare_case: PrepareCase, thinker: Thinker, oracle: Oracle
) -> None:
    """vLLM hashes a block inside a span by the span's first feature alone, and a sound's hash has no frame rate."""
    for case in (FILM, with_sound(0.5, 4, fps=3)):
        prompt = prepare_case(case)
        for feature in prompt.features:
            if feature.modality == common_pb2.MODALITY_AUDIO:
                feature.hash = "the film's sound"
        prompt.features.sort(key=lambda feature: feature.modality != FIRST[first])
        await assert_as_fresh(thinker, oracle, case, prompt, f"rates-{first}")


@pytest.mark.parametrize("first", FIRST)
async def test_a_films_sound_padded_to_a_longer_one_misses_the_cache(
    first: str, prepare_case: PrepareCase, thinker: Thinker, oracle: Oracle
) -> None:
    """Sounds are padded to the longest in the prompt, so a longer one changes the embeddings of the film's sound."""
    film, later = prepare_case(FILM), prepare_case(LATER)
    film.features.sort(key=lambda feature: feature.modality != FIRST[first])
    await assert_as_fresh(thinker, oracle, FILM, film, f"widths-{first}")
    ids = oracle.inputs(BOTH.messages, BOTH.media, use_audio_in_video=True)["input_ids"][0].tolist()
    both = Prepared(ids, [*film.features, *later.features])
    start = oracle.config.thinker_config.audio_start_token_id
    both.features[-1].offset += len(ids) - ids[::-1].index(start) - later.prompt_token_ids.index(start) - 1
    await assert_as_fresh(thinker, oracle, BOTH, both, f"widths-{first}")


WINDOW_TOKENS = 104


def heard(seconds: float, *, loudest_at_s: float) -> Case:
    """A question about the first seconds of a sound with one loud moment."""
    samples = audio(28, 31)
    samples[int(16_000 * loudest_at_s) :][:1600] *= 2
    return Case([turn("user", AUDIO, text("What is said?"))], OracleMedia(audios=[samples[: int(16_000 * seconds)]]))


async def test_a_sound_that_has_grown_finds_its_finished_windows_in_the_cache(
    prepare_case: PrepareCase, thinker: Thinker, oracle: Oracle
) -> None:
    cached: list[int] = []
    for seconds in (9.3, 17.1, 26.25):
        case = heard(seconds, loudest_at_s=1)
        wanted = oracle.generate_from_inputs(
            oracle.inputs(case.messages, case.media), voice=None, thinker=ThinkerOptions(max_new_tokens=8)
        )
        request = prepare_case(case).request("grown", sampling={"max_tokens": 8}, tenant="grown")
        got = await collect(thinker, request)
        assert got.token_ids == wanted.token_ids
        cached.append(got.done.cached_tokens)
    assert cached[0] == 0
    for finished, tokens in zip((1, 2), cached[1:], strict=True):
        assert finished * WINDOW_TOKENS - BLOCK < tokens < (finished + 1) * WINDOW_TOKENS + BLOCK


async def test_a_later_part_that_changes_earlier_windows_misses_the_cache(
    prepare_case: PrepareCase, thinker: Thinker, oracle: Oracle
) -> None:
    """Whisper's extractor cuts a sound's quiet bins at a floor under its loudest frame, which may come late."""
    for seconds in (9.3, 17.1):
        case = heard(seconds, loudest_at_s=9.5)
        wanted = oracle.generate_from_inputs(
            oracle.inputs(case.messages, case.media), voice=None, thinker=ThinkerOptions(max_new_tokens=8)
        )
        got = await collect(thinker, prepare_case(case).request("floor", sampling={"max_tokens": 8}, tenant="floor"))
        assert got.token_ids == wanted.token_ids
        assert got.done.cached_tokens < BLOCK
