"""Frames of the user's camera, which come beside the audio and are in no item yet.

The model sees those of a turn as a film: they are what it is to look at while it listens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from services.common.errors import BadInput, TooLarge
from services.gateway.realtime.conversation import SAMPLE_RATE, FilmContent, ImageContent
from services.gateway.realtime.jpeg import jpeg_size

MAX_FRAMES = 64
"""Of one turn: where there are more, every second one is left out."""
MAX_FRAME_BYTES = 512 * 1024
# What the camera showed this long before a turn is what it shows as the turn begins.
_FRESH_SAMPLES = 3 * SAMPLE_RATE
# Frames a second of a film: where its frames have no time of their own, and its bounds.
_DEFAULT_FPS, _LEAST_FPS, _MOST_FPS = 1.0, 0.1, 30.0


@dataclass(frozen=True, slots=True)
class Frame:
    jpeg: bytes
    # (width, height) in pixels, upright.
    size: tuple[int, int]
    # Its place in all audio of the session, in samples.
    at: int


class InputFrames:
    """Frames by their place in all audio of the session. `max_bytes`: of all that are held."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: list[Frame] = []

    @property
    def size_bytes(self) -> int:
        return sum(len(frame.jpeg) for frame in self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def add(self, frame: Frame) -> None:
        """Add the newest. Where there are too many, thin out the others: the turn is seen from its beginning on."""
        self._frames.append(frame)
        while len(self._frames) > 1 and (len(self._frames) > MAX_FRAMES or self.size_bytes > self._max_bytes):
            self._frames = self._frames[::-2][::-1]

    def drop(self, until: int) -> None:
        """Forget the frames before `until`, but for the last one while it is fresh."""
        older = [frame for frame in self._frames if frame.at < until]
        last = [frame for frame in older[-1:] if frame.at >= until - _FRESH_SAMPLES]
        self._frames = last + self._frames[len(older) :]

    def take(self, until: int) -> None:
        """Forget the frames until `until`: they are in an item."""
        self._frames = [frame for frame in self._frames if frame.at > until]

    def contents(self, start: int, end: int) -> list[FilmContent | ImageContent]:
        """Return what is to be seen from `start` to `end`: a film, whose frames have one size, or a picture where one
        is alone."""
        before = [frame for frame in self._frames if start - _FRESH_SAMPLES <= frame.at < start]
        seen = before[-1:] + [frame for frame in self._frames if start <= frame.at <= end]
        return [_content(list(frames)) for _, frames in groupby(seen, lambda frame: frame.size)]


def frame_of(jpeg: bytes, at: int) -> Frame:
    """Raise BadInput where this is no JPEG file or a cut one, TooLarge where it is too large."""
    check_frame_bytes(len(jpeg))
    try:
        return Frame(jpeg, jpeg_size(jpeg), at)
    except ValueError:
        raise BadInput(
            "Invalid 'image': it is no JPEG file, or a cut one. Send a whole one, base64.", param="image"
        ) from None


def check_frame_bytes(size_bytes: int) -> None:
    if size_bytes > MAX_FRAME_BYTES:
        raise TooLarge(
            f"Invalid 'image': it is larger than {MAX_FRAME_BYTES} bytes. Send a smaller one, or lower its quality.",
            param="image",
            code="media_too_large",
        )


def _content(frames: list[Frame]) -> FilmContent | ImageContent:
    if len(frames) == 1:
        return ImageContent(frames[0].jpeg, "image/jpeg")
    return FilmContent([frame.jpeg for frame in frames], _fps([frame.at for frame in frames]))


def _fps(places: Sequence[int]) -> float:
    span = places[-1] - places[0]
    if not span:
        return _DEFAULT_FPS
    return min(max((len(places) - 1) * SAMPLE_RATE / span, _LEAST_FPS), _MOST_FPS)
