"""Whole requests through decoders, caches and the checkpoint's processor, compared with transformers' processor."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from antiphon.v1 import preprocess_pb2 as pb
from services.common.errors import BadInput, Capacity
from services.preprocess.features import FeatureExtractor
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import decode_audio
from services.preprocess.media.sampling import VideoOptions
from services.preprocess.media.video import decode_video
from services.preprocess.messages import response_of
from services.preprocess.preparer import Preparer
from services.preprocess.waiting_room import WaitingRoom
from tests.fixtures.wait import wait_until
from tests.preprocess.media_files import image_file, photograph, tone, video_file
from tests.preprocess.rig import Conversation, Rig, prepare, prepare_start, refused, stage_runs
from tests.preprocess.samples import CAT, COFFEE, FILM, MUSIC, SILENT_FILM, SPEECH

pytestmark = pytest.mark.asyncio(loop_scope="module")


def pixels(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def frames(data: bytes) -> Any:
    seen = decode_video(data, VideoOptions(32), MediaLimits(), with_sound=False)
    return torch.from_numpy(seen.frames)


def expected(extractor: FeatureExtractor, start: pb.PrepareStart, **media: Any) -> Any:
    """Return transformers' own tensors for the same conversation."""

    def plain(part: pb.Part) -> dict[str, str]:
        kind = part.WhichOneof("content") or ""
        return {"type": kind, kind: part.text if kind == "text" else ""}

    text = extractor.processor.apply_chat_template(
        [{"role": m.role, "content": [plain(p) for p in m.parts]} for m in start.messages],
        tokenize=False,
        add_generation_prompt=True,
    )
    videos = (
        {"videos_kwargs": {"fps": 2.0, "use_audio_in_video": start.use_audio_in_video}} if "videos" in media else {}
    )
    return extractor.processor(text=[text], return_tensors="pt", **videos, **media)


def check_against(rig: Rig, preparer: Preparer, prepared: Any, wanted: Any) -> None:
    """Assert that the token ids are equal, and each feature's tensors equal the processor's slice for it."""
    assert prepared.token_ids == wanted["input_ids"][0].tolist()
    images = audios = videos = 0
    used = {"pixel_values": 0, "pixel_values_videos": 0}
    for feature, tensors in zip(prepared.features, rig.tensors(preparer, prepared), strict=True):
        if feature.modality == "audio":
            length = int(wanted["feature_attention_mask"][audios].sum())
            ours, theirs = tensors["input_audio_features"], wanted["input_features"][audios, :, :length]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
            audios += 1
            continue
        name, grids, index = (
            ("pixel_values", "image_grid_thw", images)
            if feature.modality == "image"
            else ("pixel_values_videos", "video_grid_thw", videos)
        )
        grid = wanted[grids][index]
        patches = int(grid.prod())
        assert torch.equal(tensors[grids], grid)
        assert torch.equal(tensors[name], wanted[name][used[name] : used[name] + patches])
        used[name] += patches
        if feature.modality == "image":
            images += 1
        else:
            assert torch.equal(tensors["second_per_grid_ts"], wanted["video_second_per_grid"][videos])
            videos += 1
        tokens = {"image": rig.extractor.tokens.image, "video": rig.extractor.tokens.video}[feature.modality]
        span = prepared.token_ids[feature.span.offset : feature.span.offset + feature.span.length]
        mask = feature.span.is_embed if feature.span.is_embed is not None else np.ones(len(span), bool)
        assert [t == tokens for t in span] == mask.tolist()


async def test_text_alone_has_no_features(rig: Rig):
    talk = Conversation().turn("system", "You are kind.").turn("user", "Count to ten.")
    prepared = await prepare(rig.preparer(), talk)
    assert prepared.token_ids == expected(rig.extractor, talk.start)["input_ids"][0].tolist()
    assert prepared.features == []


async def test_a_given_answer_comes_beside_the_prompt(rig: Rig):
    talk = Conversation().turn("user", "Read this aloud.")
    without = await prepare(rig.preparer(), talk)
    talk.start.said = "Count to ten."
    prepared = await prepare(rig.preparer(), talk)
    assert without.said_token_ids == []
    assert prepared.token_ids == without.token_ids
    words = rig.extractor.processor.tokenizer("Count to ten.<|im_end|>")["input_ids"]
    assert prepared.said_token_ids == words
    response = response_of(prepared, rig.extractor.tokens, rig.extractor.fingerprint, "here:1")
    assert response.said_token_ids == words
    assert response.fingerprint == rig.extractor.fingerprint
    assert response.usage.text_tokens == len(prepared.token_ids) + len(words)


async def test_all_modalities_in_several_turns_equal_transformers(rig: Rig):
    talk = Conversation().turn("system", "You see and hear.")
    talk.turn("user", talk.audio(SPEECH), "and", talk.image(CAT), "then", talk.video(SILENT_FILM), "Compare.")
    talk.turn("assistant", "They differ.")
    talk.turn("user", talk.image(COFFEE), talk.audio(MUSIC), "And now?", talk.image(CAT))
    preparer = rig.preparer()
    prepared = await prepare(preparer, talk)
    wanted = expected(
        rig.extractor,
        talk.start,
        images=[pixels(CAT), pixels(COFFEE), pixels(CAT)],
        audio=[soundfile.read(BytesIO(SPEECH), dtype="float32")[0], decode_audio(MUSIC, MediaLimits())],
        videos=[frames(SILENT_FILM)],
    )
    assert [f.modality for f in prepared.features] == ["image", "image", "image", "audio", "audio", "video"]
    assert prepared.features[0].key == prepared.features[2].key
    check_against(rig, preparer, prepared, wanted)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # of the yardstick
async def test_films_with_their_sound_equal_transformers(rig: Rig):
    talk = Conversation(use_audio_in_video=True)
    other = video_file(frames=60, fps=20, size=(64, 96), kind="mkv", sound=tone(3.0, 48_000, hz=300))
    talk.turn("user", talk.video(FILM), "first", talk.video(other), "second", talk.audio(SPEECH))
    preparer = rig.preparer()
    prepared = await prepare(preparer, talk)
    limits = MediaLimits()
    wanted = expected(
        rig.extractor,
        talk.start,
        audio=[decode_audio(data, limits) for data in (FILM, other, SPEECH)],
        videos=[frames(FILM), frames(other)],
    )
    check_against(rig, preparer, prepared, wanted)
    audio, video = ([f for f in prepared.features if f.modality == m] for m in ("audio", "video"))
    assert [(f.span.offset, f.span.length) for f in audio[:2]] == [(f.span.offset, f.span.length) for f in video]
    assert audio[2].span.is_embed is None


async def test_films_without_sound_are_only_seen_beside_those_that_are_heard(rig: Rig):
    talk = Conversation(use_audio_in_video=True)
    pictures = [talk.file(CAT), talk.file(CAT)]
    of_frames = pb.Part(video=pb.VideoPart(frames=pictures))
    talk.turn("user", talk.video(FILM), talk.video(SILENT_FILM), of_frames, talk.video(FILM, use_audio=False))
    preparer = rig.preparer()
    prepared = await prepare(preparer, talk)
    tensors = rig.tensors(preparer, prepared)
    assert [f.modality for f in prepared.features] == ["audio", "video", "video", "video", "video"]
    assert [bool(t["use_audio_in_video"]) for t in tensors[1:]] == [True, False, False, False]
    plain = Conversation()
    plain.turn("user", plain.video(SILENT_FILM), plain.video(FILM), plain.video(FILM, use_audio=True))
    alone = (await prepare(preparer, plain)).features
    assert [f.key for f in alone if f.modality == "video"] == [prepared.features[i].key for i in (2, 4, 1)]
    again = await prepare(preparer, talk)
    assert [f.key for f in again.features] == [f.key for f in prepared.features]
    assert again.timings.cached_items == 4


async def test_every_kind_of_source_gives_the_same_features(rig: Rig, tmp_path: Path):
    rig.web.files["/cat.jpg"] = CAT
    (tmp_path / "cat.jpg").write_bytes(CAT)
    encoded = b64encode(CAT).decode()
    data_url = "data:image/jpeg;base64," + encoded
    lines = "\r\n".join(encoded[at : at + 76] for at in range(0, len(encoded), 76))
    url_safe = encoded.replace("+", "-").replace("/", "_").rstrip("=")
    preparer = rig.preparer(folder=tmp_path)
    sources = (
        pb.MediaSource(url=rig.web.url("/cat.jpg")),
        pb.MediaSource(url=data_url),
        pb.MediaSource(url=f"data:image/jpeg;name=a,b;base64,{lines}"),
        pb.MediaSource(url=f'data:image/jpeg;name=";base64,"; base64,{url_safe}'),
        pb.MediaSource(local_path="cat.jpg"),
        pb.MediaSource(local_path=f"file://{tmp_path}/cat.jpg"),
    )
    talk = Conversation()
    talk.turn("user", talk.image(CAT), *(pb.Part(image=pb.ImagePart(source=source)) for source in sources))
    prepared = await prepare(preparer, talk)
    assert len({feature.key for feature in prepared.features}) == 1
    assert len(prepared.features) == 7


async def test_the_next_turn_reuses_the_cached_media(rig: Rig):
    rig.web.files["/film.mp4"] = FILM
    film = pb.Part(video=pb.VideoPart(source=pb.MediaSource(url=rig.web.url("/film.mp4"))))
    preparer = rig.preparer()
    talk = Conversation(use_audio_in_video=True)
    talk.turn("user", film, talk.image(CAT), talk.audio(SPEECH), "What?")
    first = await prepare(preparer, talk, request_id="first")
    fetched = rig.web.connections
    before = {stage: stage_runs(stage) for stage in ("decode", "process")}
    talk.turn("assistant", "That.").turn("user", "Sure?")
    second = await prepare(preparer, talk, request_id="second")
    assert {stage: stage_runs(stage) for stage in before} == before
    assert rig.web.connections == fetched
    assert (second.timings.cached_items, second.timings.items) == (3, 3)
    assert first.timings.cached_items == 0
    assert [f.key for f in second.features] == [f.key for f in first.features]


async def test_a_later_longer_sound_reprocesses_without_decoding(rig: Rig):
    preparer = rig.preparer()
    talk = Conversation()
    talk.turn("user", talk.audio(SPEECH))
    await prepare(preparer, talk, request_id="first")
    decoded = stage_runs("decode")
    talk.turn("user", talk.audio(MUSIC))
    await prepare(preparer, talk, request_id="second")
    assert stage_runs("decode") == decoded + 1


async def test_what_one_tenant_sent_is_cached_for_no_other(rig: Rig):
    """Else who sends a file could tell by the time whether another tenant has sent it."""
    rig.web.files["/shared.jpg"] = CAT
    part = pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/shared.jpg"))))
    preparer = rig.preparer()
    talk = Conversation()
    talk.turn("user", part, talk.image(COFFEE), talk.audio(SPEECH), talk.video(FILM), "What is all this?")

    async def ask(request_id: str, tenant: str) -> tuple[list[str], float, float]:
        """Return the keys of the features, and how many files were decoded and processed for them."""
        decoded, processed = stage_runs("decode"), stage_runs("process")
        prepared = await prepare(preparer, talk, request_id=request_id, tenant=tenant)
        return [one.key for one in prepared.features], stage_runs("decode") - decoded, stage_runs("process") - processed

    fetched = rig.web.connections
    keys, *work = await ask("1", "a")
    assert min(work) >= 4
    others, *more = await ask("2", "b")
    assert more == work
    assert set(others).isdisjoint(keys)
    assert await ask("3", "b") == (others, 0, 0)
    by_tenant = [(await prepare(preparer, talk, request_id="4", tenant=tenant)).decode_price_s for tenant in ("b", "c")]
    assert by_tenant[0] == 0.0 < by_tenant[1]
    assert rig.web.connections == fetched + 3  # each tenant's own


async def test_what_was_decoded_in_vain_is_told_at_the_release(rig: Rig):
    decoded = stage_runs("decode")

    async def answer(writer: asyncio.StreamWriter) -> None:
        await wait_until(lambda: stage_runs("decode") > decoded)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    rig.web.answers["/late"] = answer
    preparer, talk = rig.preparer(), Conversation()
    late = pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/late"))))
    with pytest.raises(BadInput):
        await prepare(preparer, talk.turn("user", talk.image(CAT), late), request_id="failed")
    assert preparer.release("failed") > 0
    assert preparer.release("failed") == 0
    prepared = await prepare(preparer, Conversation().turn("user", "hello"), request_id="fine")
    assert prepared.decode_price_s == preparer.release("fine") == 0


async def test_features_are_held_until_the_turn_is_released_then_cached(rig: Rig):
    preparer = rig.preparer()
    store = rig.store_of(preparer)
    talk = Conversation()
    talk.turn("user", talk.image(CAT))
    await prepare(preparer, talk)
    assert store.held_requests == 1
    store.release("r")
    assert store.held_requests == 0
    assert len(store) == 1


async def test_a_store_full_of_live_turns_refuses_and_holds_nothing_more(rig: Rig):
    preparer = rig.preparer(store_bytes=1 << 20)
    store = rig.store_of(preparer)
    talk = Conversation()
    talk.turn("user", talk.image(CAT))
    await prepare(preparer, talk, request_id="live")
    more = Conversation()
    more.turn("user", more.image(COFFEE))
    with pytest.raises(Capacity):
        await prepare(preparer, more, request_id="late")
    assert store.held_requests == 1
    store.release("live")
    assert (await prepare(preparer, more, request_id="late")).features


async def test_a_parts_pixel_bounds_and_rate_apply(rig: Rig):
    preparer = rig.preparer()
    talk = Conversation()
    talk.turn(
        "user",
        talk.image(CAT, min_pixels=4096, max_pixels=30_000),
        talk.video(SILENT_FILM, fps=4.0, min_pixels=8000, max_pixels=20_000),
    )
    image, video = (await prepare(preparer, talk)).features
    assert image.span.length <= 30_000 // 1024
    assert video.shape.grid is not None
    assert video.shape.grid[0] == 4
    assert video.shape.seconds_per_grid == 0.5
    assert video.span.length <= 4 * 20_000 // 1024


async def test_a_features_hash_covers_everything_that_shapes_it(rig: Rig):
    """The thinker's caches use these hashes across requests and workers."""

    async def hashes(
        limits: MediaLimits | None = None, *, use_audio_in_video: bool = True, **options: Any
    ) -> dict[str, str]:
        talk = Conversation(use_audio_in_video=use_audio_in_video)
        talk.turn("user", talk.video(FILM, **options))
        return {f.modality: f.key for f in (await prepare(rig.preparer(limits), talk)).features}

    plain = await hashes()
    assert await hashes() == await hashes(fps=2.0) == plain
    others = [
        await hashes(fps=1.0),
        await hashes(fps=2.5),
        await hashes(max_pixels=20_000, min_pixels=8000),
        await hashes(total_pixels=40_000),
        await hashes(MediaLimits(video_frames=4)),
        await hashes(use_audio_in_video=False),
    ]
    assert len({plain["video"], *(other["video"] for other in others)}) == 1 + len(others)


async def test_a_lower_pixel_bound_over_the_checkpoints_is_refused_unread(rig: Rig):
    talk = Conversation()
    talk.turn("user", talk.image(CAT, min_pixels=2_000_000_000))
    fetched = stage_runs("fetch")
    error = await refused(rig.preparer(), talk)
    assert isinstance(error, BadInput)
    assert (error.status, error.param) == (400, "messages[0].content[0].min_pixels")
    assert str(rig.extractor.image_max_pixels) in error.message
    assert stage_runs("fetch") == fetched


async def test_an_upper_pixel_bound_over_the_checkpoints_changes_nothing(rig: Rig):
    preparer = rig.preparer()
    talk = Conversation()
    talk.turn("user", talk.image(CAT), talk.image(CAT, max_pixels=4_000_000_000))
    plain, bounded = (await prepare(preparer, talk)).features
    assert bounded.shape == plain.shape


async def test_an_image_of_too_many_tokens_is_refused_before_its_resize(rig: Rig):
    talk = Conversation()
    talk.turn("user", talk.image(CAT, min_pixels=rig.extractor.image_max_pixels))
    processed = stage_runs("process")
    error = await refused(rig.preparer(MediaLimits(item_tokens=rig.extractor.image_max_pixels // 1024 - 100)), talk)
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert error.param == "messages[0].content[0].image_url.url"
    assert stage_runs("process") == processed


async def test_a_film_can_be_given_as_images(rig: Rig):
    talk = Conversation()
    sources = [talk.file(image_file(p, "png")) for p in (photograph(), photograph()[::-1], photograph())]
    talk.turn("user", pb.Part(video=pb.VideoPart(frames=sources)))
    (film,) = (await prepare(rig.preparer(), talk)).features
    assert film.modality == "video"
    assert film.shape.grid is not None
    assert film.shape.grid[0] == 2


async def test_a_cancelled_request_holds_nothing(rig: Rig):
    preparer = rig.preparer()
    talk = Conversation()
    talk.turn("user", talk.image(CAT), talk.video(FILM))
    work = asyncio.create_task(prepare(preparer, talk))
    while not rig.store_of(preparer).held_requests:
        await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert rig.store_of(preparer).held_requests == 0


async def test_only_a_large_file_frees_its_requests_slot(rig: Rig):
    preparer = rig.preparer()
    blank = image_file(np.zeros((7000, 7000, 3), np.uint8), "png")
    for request_id, file, frees in (("small", CAT, 0), ("two large ones", blank, 1)):
        talk = Conversation()
        talk.turn("user", *[talk.image(file, max_pixels=65_536 + i) for i in range(1 + frees)])
        freed: list[str] = []
        talk.start.context.request_id = request_id
        await prepare_start(preparer, talk, lambda freed=freed: freed.append("slot"))
        assert len(freed) == frees


async def test_a_request_that_finds_the_waiting_room_full_keeps_its_slot(rig: Rig):
    preparer = rig.preparer(waiting=WaitingRoom(most=0))
    talk = Conversation()
    talk.turn("user", talk.image(image_file(np.zeros((7000, 7000, 3), np.uint8), "png"), max_pixels=65_536))
    talk.start.context.request_id = "r"
    await prepare_start(preparer, talk, lambda: pytest.fail("the slot was freed"))
