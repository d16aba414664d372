"""Files that are not taken, and what their senders are told."""

from __future__ import annotations

import zlib
from functools import partial
from io import BytesIO
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.preprocess.second_table.films import coded
from tests.preprocess.second_table.films import of as film
from tests.preprocess.second_table.pictures import header, joined, rgb_rows
from tests.preprocess.second_table.quarters import image
from tests.preprocess.second_table.rows import Refused
from tests.preprocess.second_table.sounds import click, in_container, layout, of, riff, samples_16
from tests.preprocess.test_files.encode import png, png_of, written
from tests.preprocess.test_files.pictures import saved
from tests.preprocess.test_files.sounds import RATE, told

_IMAGES = "Send png, jpeg, webp, gif, avif, heic, bmp or tiff."
_SOUNDS = "Send wav, mp3, flac, ogg, opus, aac, m4a, amr, aiff, caf or au"
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c"
_PAGE = b"<!DOCTYPE html><html><title>404 Not Found</title></html>"


def of_an_iphone() -> bytes:
    """Return a PNG as Xcode writes it into apps: bare Deflate, and a chunk that says so."""
    pixels = zlib.compressobj(wbits=-15)
    body = pixels.compress(b"".join(b"\0" + row for row in rgb_rows())) + pixels.flush()
    return png_of((b"CgBI", b"\x50\0\x20\x06"), header(8, 2), (b"IDAT", body), (b"IEND", b""))


def wrong_sum() -> bytes:
    data = bytearray(png(rgb_rows(), 36, 8, 2))
    data[29] ^= 1  # of the header
    return bytes(data)


def not_finite() -> bytes:
    sound = click()
    sound[100] = np.nan
    return written(sound, RATE, "WAV", "FLOAT")


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def of_channels(channels: int, rate: int) -> bytes:
    return riff((b"fmt ", layout(rate=rate, channels=channels)), (b"data", bytes(channels * 2 * 2000)))


def silent_film() -> bytes:
    return film("mp4", "libx264", 4)


def sound_alone() -> bytes:
    return in_container("mp4", "aac")


def only_headers() -> bytes:
    out = BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream: Any = file.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        file.start_encoding()
    return out.getvalue()


REFUSED = (
    Refused("a page that says 404", "image", lambda: _PAGE, f"The file has no known image format. {_IMAGES}"),
    Refused("an svg", "image", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', _IMAGES),
    Refused("a pdf", "image", lambda: b"%PDF-1.7\n" + bytes(64), _IMAGES),
    Refused("an icon", "image", lambda: saved(image(), "ICO"), _IMAGES),
    Refused("a jpeg 2000", "image", lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), _IMAGES),
    Refused("a jpeg xl", "image", lambda: b"\xff\x0a" + bytes(64), _IMAGES),
    Refused("a psd", "image", lambda: b"8BPS\0\1" + bytes(64), _IMAGES),
    Refused("a film as a picture", "image", silent_film, "The file is mp4, not an image."),
    Refused("a png of an iPhone's app", "image", of_an_iphone, "The png image is broken."),
    Refused("a png with a wrong checksum", "image", wrong_sum, "The png image is broken."),
    Refused(
        "a png of no size",
        "image",
        lambda: png_of(header(8, 2, size=(0, 0)), (b"IEND", b"")),
        "The png image is broken.",
    ),
    Refused(
        "a png that is cut in its text",
        "image",
        lambda: cut(png(rgb_rows(), 36, 8, 2, (b"tEXt", b"k\0" + bytes(999))), 0.5),
        "The png image is broken.",
    ),
    Refused("a jpeg that is cut", "image", lambda: cut(saved(image(), "JPEG"), 0.9), "The jpeg image is broken."),
    Refused("a webp that is cut", "image", lambda: cut(saved(image(), "WEBP"), 0.8), "The file is truncated"),
    Refused("a gif that is cut", "image", lambda: cut(joined("GIF"), 0.4), "The gif image is broken."),
    Refused("an avif that is cut", "image", lambda: cut(saved(image(), "AVIF"), 0.9), "The file is truncated"),
    Refused(
        "a picture of 1 × 300 pixels",
        "image",
        lambda: saved(Image.new("RGB", (300, 1)), "PNG"),
        "One side may be at most 200 times the other.",
    ),
    Refused(
        "a png of 4 billion pixels",
        "image",
        lambda: png_of(header(8, 2, size=(65_000, 65_000)), (b"IDAT", b""), (b"IEND", b"")),
        "The image has 4225000000 pixels. Send at most 64000000.",
    ),
    Refused("a text as a sound", "audio", lambda: b"hello " * 40, _SOUNDS),
    Refused("bare samples", "audio", samples_16, _SOUNDS),
    Refused("a picture as a sound", "audio", lambda: saved(image(), "WEBP"), "The file is a webp image, not audio."),
    Refused("a wma", "audio", lambda: _ASF + bytes(200), _SOUNDS),
    Refused(
        "a wav of G.722",
        "audio",
        partial(in_container, "wav", "g722"),
        "The audio codec is not supported: g722. Send aac, alac, mp3",
    ),
    Refused(
        "an mka of TTA", "audio", partial(in_container, "matroska", "tta"), "The audio codec is not supported: tta."
    ),
    Refused(
        "a wav of 33 channels",
        "audio",
        lambda: of_channels(33, 8000),
        "The audio has 33 channels at 8000 Hz. Send 1 to 32 channels at 1000 to 768000 Hz.",
    ),
    Refused("a wav at 500 Hz", "audio", lambda: of_channels(1, 500), "The audio has 1 channels at 500 Hz."),
    Refused("a wav of an hour that ends at once", "audio", lambda: told(None, 115_200_000), "The file is truncated"),
    Refused(
        "a wav of 10 ms",
        "audio",
        lambda: written(click(seconds=0.3)[:160], RATE, "WAV", "PCM_16"),
        "The audio is 10 ms long. Send at least 13 ms.",
    ),
    Refused(
        "a wav of headers alone", "audio", lambda: riff((b"fmt ", layout()), (b"data", b"")), "The audio is empty."
    ),
    Refused(
        "a wav with a sample that is no number",
        "audio",
        not_finite,
        "The audio holds samples that are not finite numbers.",
    ),
    Refused("a flac that is cut", "audio", lambda: cut(of("FLAC", "PCM_16"), 0.7), "The flac file is broken."),
    Refused("an ogg that is cut", "audio", lambda: cut(of("OGG", "VORBIS"), 0.8), "The file is truncated"),
    Refused(
        "an aiff that is cut", "audio", lambda: cut(in_container("aiff", "pcm_s16be"), 0.8), "The file is truncated"
    ),
    Refused("a film without sound as a sound", "audio", silent_film, "The file has no sound track."),
    Refused("a sound as a film", "video", sound_alone, "The file has no video track."),
    Refused("an animated gif as a film", "video", lambda: joined("GIF"), "The file is a gif image, not a video."),
    Refused(
        "a mov of ProRes",
        "video",
        lambda: coded("mov", "prores_ks", "yuv422p10le", count=4),
        "The video codec is not supported: prores. Send h264, hevc",
    ),
    Refused(
        "an mkv of FFV1",
        "video",
        lambda: coded("matroska", "ffv1", "yuv420p", count=4),
        "The video codec is not supported: ffv1.",
    ),
    Refused(
        "an avi of HuffYUV",
        "video",
        lambda: coded("avi", "huffyuv", "yuv422p", count=4),
        "The video codec is not supported: huffyuv.",
    ),
    Refused(
        "a wmv",
        "video",
        lambda: coded("asf", "wmv2", "yuv420p", count=4),
        "Send mp4, mov, 3gp, webm, mkv, avi, ts, mpeg, flv or ogv.",
    ),
    Refused(
        "a film of one frame",
        "video",
        lambda: coded("mp4", "libx264", "yuv420p", count=1),
        "The video has 1 frames. Send at least 2.",
    ),
    Refused("an mkv of headers alone", "video", only_headers, "The matroska file is broken."),
    Refused("an mp4 that is cut", "video", lambda: cut(silent_film(), 0.6), "The file is truncated"),
    Refused(
        "a playlist",
        "video",
        lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:10\nfile:///etc/passwd\n",
        "The file has no known video format.",
    ),
)
