"""Requests that ask for far more memory than their size shows, and the web server that some of them name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import BytesIO

import numpy as np
import soundfile
from PIL import Image

from antiphon.v1 import preprocess_pb2 as pb
from tests.preprocess.media_files import video_file
from tests.preprocess.rig import Conversation
from tests.preprocess.web_server import Responder, WebServer

_PIECE = bytes(64 << 10)


def _png(side: int, mode: str = "RGB") -> bytes:
    out = BytesIO()
    Image.new(mode, (side, side)).save(out, "png", compress_level=9)
    return out.getvalue()


def _flac(seconds: int) -> bytes:
    out = BytesIO()
    with soundfile.SoundFile(out, "w", 48_000, 2, format="FLAC") as file:
        for _ in range(seconds):
            file.write(np.zeros((48_000, 2), np.int16))
    return out.getvalue()


def _body(size: int, *, told: bool, pause_s: float = 0.0) -> Responder:
    """Answer with a body of `size` bytes, its length told or not."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: %d\r\n" % size if told else b"") + b"\r\n")
        for _ in range(size // len(_PIECE)):
            writer.write(_PIECE)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return answer


class Hostile:
    """Makes the requests of each kind. `scale` divides their pixels and seconds, `bytes_scale` the sizes of files that
    hold none, so that a test can run them too."""

    def __init__(self, web: WebServer, scale: int = 1, bytes_scale: int = 1) -> None:
        self._web = web
        side = int(4000 / scale**0.5)
        self._pictures = [_png(side), _png(side, "RGBA"), _png(side, "P")]
        self._silence = _flac(2400 // scale)
        self._film = video_file(
            frames=max(64 // scale, 8), size=(int(1920 / scale**0.5) & ~1, int(1080 / scale**0.5) & ~1)
        )
        self._large = bytes((32 << 20) // bytes_scale)
        mebibyte = (1 << 20) // bytes_scale
        web.answers["/told"] = _body(8 * mebibyte, told=True)
        web.answers["/untold"] = _body(8 * mebibyte, told=False)
        web.answers["/slow"] = _body(8 * mebibyte, told=False, pause_s=0.05)
        web.answers["/endless"] = _body(1024 * mebibyte, told=False)
        web.files["/picture"] = self._pictures[0]

    @property
    def kinds(self) -> dict[str, Callable[[], Conversation]]:
        return {
            "pictures of many pixels": lambda: self._of("image", self._pictures[:2] * 4),
            "a film of images": self._film_of_images,
            "a film of URLs": lambda: self._film_of_urls("/picture", 24),
            "a film of large URLs": lambda: self._film_of_urls("/told", 100),
            "URLs without a length": lambda: self._urls("/untold", 8),
            "an endless URL": lambda: self._urls("/endless", 2),
            "slow URLs": lambda: self._urls("/slow", 4),
            "hours of silence": lambda: self._of("audio", [self._silence] * 4),
            "films": lambda: self._of("video", [self._film] * 2),
            "large files of no format": lambda: self._of("image", [self._large] * 4),
            "large files as sounds": lambda: self._of("audio", [self._large] * 2),
        }

    def _of(self, kind: str, files: list[bytes]) -> Conversation:
        talk = Conversation()
        talk.turn("user", *(getattr(talk, kind)(file) for file in files), "What is this?")
        return talk

    def _film_of_images(self) -> Conversation:
        talk = Conversation()
        sources = [talk.file(self._pictures[2]) for _ in range(24)]
        return talk.turn("user", pb.Part(video=pb.VideoPart(frames=sources)))

    def _film_of_urls(self, path: str, count: int) -> Conversation:
        sources = [pb.MediaSource(url=self._web.url(path)) for _ in range(count)]
        return Conversation().turn("user", pb.Part(video=pb.VideoPart(frames=sources)))

    def _urls(self, path: str, count: int) -> Conversation:
        source = pb.MediaSource(url=self._web.url(path))
        return Conversation().turn("user", *[pb.Part(image=pb.ImagePart(source=source)) for _ in range(count)])
