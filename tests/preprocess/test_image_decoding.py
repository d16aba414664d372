"""Decoded images equal the model's own conversion to RGB where there is one. test_files has the rest."""

import struct
import tracemalloc
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from services.preprocess.limits import MediaLimits
from services.preprocess.media.images import decode_image
from services.preprocess.media.png import picture_of
from services.preprocess.media.problems import MediaProblem
from tests.preprocess.media_files import Pixels, image_file, photograph, sound_file, tone

LIMITS = MediaLimits()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_photograph_decodes_to_its_pixels(kind: str):
    file = image_file(photograph(), kind)
    expected = np.array(Image.open(BytesIO(file)).convert("RGB"))
    assert np.array_equal(decode_image(file, LIMITS), expected)
    assert expected.shape == photograph().shape


def test_a_gif_gives_its_first_frame():
    red, blue = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    out = BytesIO()
    red.save(out, "GIF", save_all=True, append_images=[blue])
    assert (decode_image(out.getvalue(), LIMITS) == (255, 0, 0)).all()


def test_transparent_pixels_become_white():
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:10] = (10, 20, 30, 255)
    seen = decode_image(image_file(pixels, "png"), LIMITS)
    assert (seen[:10] == (10, 20, 30)).all()
    assert (seen[10:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str):
    image = Image.fromarray(photographs.coins()).convert(mode)
    out = BytesIO()
    image.save(out, "JPEG" if mode == "CMYK" else "PNG")
    expected = np.array(Image.open(BytesIO(out.getvalue())).convert("RGB"))
    assert np.array_equal(decode_image(out.getvalue(), LIMITS), expected)


def refusal(data: bytes, limits: MediaLimits = LIMITS) -> MediaProblem:
    with pytest.raises(MediaProblem) as caught:
        decode_image(data, limits)
    return caught.value


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "avif", "bmp", "tiff"])
def test_a_file_cut_in_half_is_refused(kind: str):
    file = image_file(photograph(), kind)
    assert refusal(file[: len(file) // 2]).code == "invalid_media"


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(99)])
def test_bytes_that_are_not_an_image_are_refused(data: bytes):
    assert refusal(data).code == "invalid_media"


def test_a_sound_is_refused_as_an_image():
    assert refusal(sound_file(tone(0.3), 16_000, "wav")).message == (
        "The file is wav, not an image. Send png, jpeg, webp, gif, avif, heic, bmp or tiff."
    )
    assert refusal(b"\0\0\0\x14ftypavif" + bytes(8)).message == "The avif image is broken."
    assert refusal(b"what is this?").message.startswith("The file has no known image format.")


@pytest.mark.parametrize("kind", ["ppm", "ico", "tga", "jpeg2000"])
def test_an_unsupported_image_format_is_refused_with_those_that_are_taken(kind: str):
    problem = refusal(image_file(photograph(), kind))
    assert (problem.code, "avif, heic, bmp or tiff" in problem.message) == ("invalid_media", True)


def test_the_pixel_limit_applies_before_decoding():
    bomb = BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 100_000
    problem = refusal(bomb.getvalue())
    assert (problem.code, "400000000" in problem.message) == ("media_too_large", True)
    assert refusal(image_file(photograph(), "png"), replace(LIMITS, image_pixels=1000)).code == "media_too_large"


@pytest.mark.parametrize(("size", "taken"), [((200, 1), True), ((201, 1), False)])
def test_a_side_may_be_at_most_200_times_the_other(size: tuple[int, int], taken: bool):
    file = image_file(np.zeros((size[1], size[0], 3), np.uint8), "png")
    if taken:
        pixels: Pixels = decode_image(file, LIMITS)
        assert pixels.shape == (1, 200, 3)
    else:
        assert refusal(file).code == "invalid_media"


def test_a_png_of_tiny_chunks_takes_little_more_than_its_size():
    file = image_file(photograph(), "png")
    head, rest = file[:33], file[33:]  # behind the signature and IHDR
    seen, unseen = (struct.pack(">I4sI", 0, name, zlib.crc32(name)) for name in (b"eXIf", b"teXt"))
    many, picture = head + 50_000 * (seen + unseen) + rest, head + 50_000 * seen + rest
    tracemalloc.start()
    try:
        assert picture_of(many) == picture
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(many)
    assert picture_of(file) is file
