"""Requests that preprocess refuses. Each error names its part and the limit, and the refusal leaves nothing behind."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from antiphon.v1 import common_pb2
from antiphon.v1 import preprocess_pb2 as pb
from services.common.errors import BadInput, ContextTooLong, TooLarge
from services.preprocess.limits import MediaLimits
from tests.preprocess.media_files import sound_file, tone
from tests.preprocess.rig import Conversation, Rig, prepare, refused, stage_runs
from tests.preprocess.samples import CAT, COFFEE, FILM, SILENT_FILM, SPEECH

pytestmark = pytest.mark.asyncio(loop_scope="module")


BROKEN = [
    ("image", b"", "image_url.url", "empty"),
    ("image", CAT[: len(CAT) // 2], "image_url.url", "broken"),
    ("image", SPEECH, "image_url.url", "Send png"),
    ("audio", CAT, "input_audio.data", "image, not audio"),
    ("audio", SPEECH[:3000], "input_audio.data", "truncated"),
    ("audio", SILENT_FILM, "input_audio.data", "no sound track"),
    ("video", FILM[:-2000], "video_url.url", "truncated"),
    ("video", CAT, "video_url.url", "image"),
    ("video", b"text", "video_url.url", "no known video format"),
]


@pytest.mark.parametrize(("kind", "data", "field", "words"), BROKEN)
async def test_bad_media_names_its_part_and_leaves_nothing(rig: Rig, kind: str, data: bytes, field: str, words: str):
    preparer = rig.preparer()
    talk = Conversation()
    talk.turn("user", talk.image(COFFEE), getattr(talk, kind)(data))
    error = await refused(preparer, talk)
    assert isinstance(error, BadInput)
    assert (error.code, error.param) == ("invalid_media", f"messages[0].content[1].{field}")
    assert words in error.message
    assert rig.store_of(preparer).held_requests == 0


@pytest.mark.parametrize(
    ("limits", "kind", "count", "code"),
    [
        (MediaLimits(item_bytes=1000), "image", 1, "too_large"),
        (MediaLimits(image_pixels=1000), "image", 1, "media_too_large"),
        (MediaLimits(audio_s=1.0), "audio", 1, "media_too_large"),
        (MediaLimits(video_s=1.0), "video", 1, "media_too_large"),
        (MediaLimits(video_frame_pixels=100), "video", 1, "media_too_large"),
        (MediaLimits(item_tokens=20), "audio", 1, "context_length_exceeded"),
        (MediaLimits(item_tokens=20), "video", 1, "context_length_exceeded"),
    ],
)
async def test_each_limit_has_its_error(rig: Rig, limits: MediaLimits, kind: str, count: int, code: str):
    data = {"image": CAT, "audio": SPEECH, "video": FILM}[kind]
    talk = Conversation()
    talk.turn("user", *(getattr(talk, kind)(data) for _ in range(count)))
    error = await refused(rig.preparer(limits), talk)
    assert error.code == code
    assert (error.param or "").startswith(f"messages[0].content[{count - 1}]")
    assert any(character.isdigit() for character in error.message)


async def test_the_file_limit_also_holds_for_urls_and_paths(rig: Rig, tmp_path: Path):
    rig.web.files["/large.jpg"] = CAT
    (tmp_path / "large.jpg").write_bytes(CAT)
    preparer = rig.preparer(MediaLimits(item_bytes=1000), folder=tmp_path)
    for source in (
        pb.MediaSource(url=rig.web.url("/large.jpg")),
        pb.MediaSource(url="data:;base64," + b64encode(CAT).decode()),
        pb.MediaSource(local_path="large.jpg"),
    ):
        talk = Conversation().turn("user", pb.Part(image=pb.ImagePart(source=source)))
        assert isinstance(await refused(preparer, talk), TooLarge)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret.jpg", "link.jpg", "missing.jpg", "", "sub", "sub/../../secret.jpg", "a\0b"]
)
async def test_a_path_outside_the_allowed_folder_is_refused(rig: Rig, tmp_path: Path, path: str):
    allowed = tmp_path / "allowed"
    (allowed / "sub").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(CAT)
    (allowed / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    talk = Conversation().turn("user", pb.Part(image=pb.ImagePart(source=pb.MediaSource(local_path=path))))
    assert (await refused(rig.preparer(folder=allowed), talk)).code == "path_refused"


async def test_local_paths_are_off_unless_a_folder_is_allowed(rig: Rig):
    talk = Conversation().turn("user", pb.Part(image=pb.ImagePart(source=pb.MediaSource(local_path="/etc/passwd"))))
    assert (await refused(rig.preparer(), talk)).code == "path_refused"


@pytest.mark.parametrize("url", ["data:image/png;base64,@@@@", "data:nothing", "data:;base64,AAAAA"])
async def test_a_malformed_data_url_is_refused(rig: Rig, url: str):
    talk = Conversation().turn("user", pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=url))))
    error = await refused(rig.preparer(), talk)
    assert (error.code, error.param) == ("invalid_url", "messages[0].content[0].image_url.url")


async def test_a_prompt_over_the_models_length_is_refused_with_numbers(rig: Rig):
    preparer = rig.preparer(max_model_len=64)
    fits = Conversation().turn("user", "a b c")
    assert len((await prepare(preparer, fits)).token_ids) < 64
    error = await refused(preparer, Conversation().turn("user", "word " * 100))
    assert isinstance(error, ContextTooLong)
    assert "at most 63" in error.message
    assert error.param == "messages"
    many = Conversation()
    many.turn("user", *(many.audio(SPEECH) for _ in range(4)))
    error = await refused(preparer, many)
    assert isinstance(error, ContextTooLong)
    assert rig.store_of(preparer).held_requests == 0


async def test_a_captioner_takes_one_audio_and_nothing_else(rig: Rig):
    preparer = rig.preparer(kind="captioner")
    good = Conversation()
    good.turn("user", good.audio(SPEECH))
    assert len((await prepare(preparer, good)).features) == 1
    for parts in (("text",), ("audio", "text"), ("audio", "audio"), ("audio", "image"), ()):
        talk = Conversation()
        make = {"text": lambda: "hi", "audio": lambda: talk.audio(SPEECH), "image": lambda: talk.image(CAT)}  # noqa: B023
        talk.turn("user", *(make[part]() for part in parts))
        assert (await refused(preparer, talk)).code == "invalid_value"


async def test_no_messages_and_bad_options_are_refused(rig: Rig):
    assert (await refused(rig.preparer(), Conversation())).param == "messages"
    for part, field in (
        (pb.Part(image=pb.ImagePart(min_pixels=0)), "min_pixels"),
        (pb.Part(image=pb.ImagePart(min_pixels=9000, max_pixels=5000)), "min_pixels"),
        (pb.Part(video=pb.VideoPart(fps=0.0)), "fps"),
        (pb.Part(video=pb.VideoPart(fps=float("nan"))), "fps"),
        (pb.Part(audio=pb.AudioPart()), "input_audio.data"),
    ):
        error = await refused(rig.preparer(), Conversation().turn("user", part))
        assert error.param == f"messages[0].content[0].{field}"


@pytest.mark.parametrize(
    ("most", "kinds", "at"),
    [
        ({"images": 2}, ("image", "audio", "image", "image"), 3),
        ({"audios": 1}, ("audio", "image", "audio"), 2),
        ({"videos": 0}, ("image", "video"), 1),
    ],
)
async def test_too_many_items_are_refused_before_any_is_read(
    rig: Rig, most: dict[str, int], kinds: tuple[str, ...], at: int
):
    talk = Conversation()
    talk.turn("user", *(getattr(talk, kind)(b"never read") for kind in kinds))
    max_items = common_pb2.MediaCounts(**({"images": 9, "audios": 9, "videos": 9} | most))
    fetched = stage_runs("fetch")
    error = await refused(rig.preparer(max_items=max_items), talk)
    assert (error.code, error.param) == ("too_many_media", f"messages[0].content[{at}]")
    assert f"at most {next(iter(most.values()))}" in error.message
    assert stage_runs("fetch") == fetched


async def test_a_films_sound_counts_as_an_audio(rig: Rig):
    max_items = common_pb2.MediaCounts(images=1, audios=1, videos=1)
    with_sound = Conversation(use_audio_in_video=True)
    with_sound.turn("user", with_sound.audio(SPEECH), with_sound.video(FILM))
    assert (await refused(rig.preparer(max_items=max_items), with_sound)).param == "messages[0].content[1]"
    silent = Conversation()
    silent.turn("user", silent.audio(SPEECH), silent.video(FILM))
    assert len((await prepare(rig.preparer(max_items=max_items), silent)).features) == 2


async def test_the_part_over_the_context_is_named_and_decoding_stops(rig: Rig):
    talk = Conversation()
    talk.turn("user", *(talk.audio(sound_file(tone(2.0, seed=i), 16_000, "wav")) for i in range(40)))
    decoded = stage_runs("decode")
    error = await refused(rig.preparer(max_model_len=256), talk)
    assert isinstance(error, ContextTooLong)
    assert (error.param or "").startswith("messages[0].content[")
    assert stage_runs("decode") - decoded < 20


async def test_the_files_of_a_request_have_a_total_limit(rig: Rig):
    rig.web.files["/cat.jpg"] = CAT
    talk = Conversation()
    url = pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/cat.jpg"))))
    talk.turn("user", talk.image(CAT), url)
    error = await refused(rig.preparer(MediaLimits(request_bytes=len(CAT) + 1)), talk)
    assert isinstance(error, TooLarge)
    assert str(len(CAT) + 1) in error.message
