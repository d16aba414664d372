"""Frames of a camera, beside the audio."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from services.common.errors import BadInput, TooLarge
from services.gateway.realtime.conversation import SAMPLE_RATE, FilmContent, ImageContent
from services.gateway.realtime.input_frames import MAX_FRAME_BYTES, MAX_FRAMES, Frame, InputFrames, frame_of
from services.gateway.realtime.jpeg import jpeg_size
from tests.gateway.realtime.dashscope.talking import jpeg


def held(*places_s: float, max_bytes: int = 1 << 20, size: tuple[int, int] = (64, 48)) -> InputFrames:
    frames = InputFrames(max_bytes)
    for place in places_s:
        frames.add(frame(place, size))
    return frames


def frame(at_s: float, size: tuple[int, int] = (64, 48)) -> Frame:
    return Frame(f"at {at_s:g}".encode(), size, round(at_s * SAMPLE_RATE))


def seen(frames: InputFrames, start_s: float, end_s: float) -> list[FilmContent | ImageContent]:
    return frames.contents(round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE))


def test_the_frames_of_a_turn_are_a_film_with_the_one_before_it() -> None:
    (film,) = seen(held(0, 1, 2, 3, 4, 5), 1.5, 4)
    assert film == FilmContent([b"at 1", b"at 2", b"at 3", b"at 4"], 1.0)


def test_one_frame_is_a_picture() -> None:
    assert seen(held(2), 1, 3) == [ImageContent(b"at 2", "image/jpeg")]
    assert seen(held(2), 3, 4) == [ImageContent(b"at 2", "image/jpeg")]
    assert seen(held(2), 6, 7) == []
    assert seen(InputFrames(1), 0, 9) == []


def test_another_size_begins_another_film() -> None:
    frames = held(0, 1)
    for at, size in ((2, (48, 64)), (3, (64, 48)), (3.5, (64, 48))):
        frames.add(frame(at, size))
    first, turned, last = seen(frames, 0, 4)
    assert isinstance(first, FilmContent)
    assert isinstance(turned, ImageContent)
    assert last == FilmContent([b"at 3", b"at 3.5"], 2.0)


def test_frames_without_time_between_them_are_a_second_apart() -> None:
    (film,) = seen(held(1, 1, 1), 1, 1)
    assert isinstance(film, FilmContent)
    assert (len(film.frames), film.fps) == (3, 1.0)


def test_too_many_frames_are_thinned_out_and_the_newest_stays() -> None:
    frames = held(*range(MAX_FRAMES))
    frames.add(frame(MAX_FRAMES))
    (film,) = seen(frames, 0, MAX_FRAMES)
    assert isinstance(film, FilmContent)
    assert film.frames == [f"at {n}".encode() for n in range(0, MAX_FRAMES + 1, 2)]
    assert film.fps == 0.5
    frames = held(*range(10, 20), max_bytes=20)  # of 5 bytes each
    assert frames.size_bytes <= 20
    contents = seen(frames, 0, 30)[0]
    assert isinstance(contents, FilmContent)
    assert contents.frames[-1] == b"at 19"


def test_what_the_camera_showed_last_is_kept_while_it_is_fresh() -> None:
    frames = held(1, 2, 3)
    frames.drop(4 * SAMPLE_RATE)
    assert seen(frames, 4, 5) == [ImageContent(b"at 3", "image/jpeg")]
    frames.drop(9 * SAMPLE_RATE)
    assert not frames.size_bytes
    frames = held(1, 2, 3)
    frames.take(2 * SAMPLE_RATE)
    assert seen(frames, 0, 9) == [ImageContent(b"at 3", "image/jpeg")]


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (1920, 1080)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(60_000)}, {"quality": 1}])
def test_the_size_of_a_jpeg_file_is_in_its_header(size: tuple[int, int], options: dict[str, Any]) -> None:
    assert jpeg_size(jpeg(size, **options)) == size


def exif(orientation: int, endian: str) -> bytes:
    made = Image.Exif()
    made.endian = endian
    made[ExifTags.Base.Make], made[ExifTags.Base.Orientation] = "camera", orientation
    return made.tobytes()


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_size_is_that_of_the_upright_picture(orientation: int, endian: str) -> None:
    said, xmp = exif(orientation, endian), b'<rdf:Description tiff:Orientation="%d"/>' % orientation
    lies = 5 <= orientation <= 8
    both = {"exif": exif(1, endian), "xmp": xmp}
    given: list[tuple[dict[str, Any], bool]] = [({"exif": said}, lies), ({"xmp": xmp}, lies), (both, False)]
    for options, is_turned in given:
        file = jpeg((64, 48), **options)
        with Image.open(io.BytesIO(file)) as image:
            upright = ImageOps.exif_transpose(image).size
        assert jpeg_size(file) == upright == ((48, 64) if is_turned else (64, 48))


def test_a_turned_frame_is_in_another_film() -> None:
    frames, upright, turned = InputFrames(1 << 20), jpeg(), jpeg(exif=exif(6, ">"))
    for at, file in enumerate((upright, upright, turned)):
        frames.add(frame_of(file, at * SAMPLE_RATE))
    assert seen(frames, 0, 3) == [FilmContent([upright, upright], 1.0), ImageContent(turned, "image/jpeg")]


def test_a_cut_file_is_refused() -> None:
    whole = jpeg(exif=exif(1, "<") + b"a thumbnail \xff\xd9")
    assert frame_of(whole + b"a camera's own", 0).size == (64, 48)
    for size_bytes in range(len(whole)):
        with pytest.raises(BadInput, match="cut one"):
            frame_of(whole[:size_bytes], 0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 700))
def test_any_bytes_are_a_picture_or_refused(noise: bytes, at: int) -> None:
    whole = jpeg()
    for data in (noise, b"\xff\xd8\xff" + noise, whole[:at] + noise + whole[at + len(noise) :], b"\xff" * 5000):
        with suppress(BadInput):
            width, height = frame_of(data, 0).size
            assert 0 < width < 65_536
            assert 0 < height < 65_536


def test_other_files_and_large_ones_are_refused() -> None:
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    with pytest.raises(BadInput, match="no JPEG"):
        frame_of(png.getvalue(), 0)
    with pytest.raises(TooLarge, match="larger than"):
        frame_of(jpeg() + bytes(MAX_FRAME_BYTES), 0)
