"""Prompts of every modality, with media generated from seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.fixtures.oracle import OracleMedia

AUDIO = {"type": "audio", "audio": "-"}
IMAGE = {"type": "image", "image": "-"}
VIDEO = {"type": "video", "video": "-"}
# Pinned, as the default is about to change in transformers.
_VIDEO_KWARGS = {"videos_kwargs": {"cap_pixels_per_frame": False}}


@dataclass(frozen=True)
class Case:
    """A prompt with its media."""

    messages: list[Mapping[str, Any]]
    media: OracleMedia = field(default_factory=OracleMedia)
    use_audio_in_video: bool = False


def audio(seconds: float, seed: int) -> NDArray[np.float32]:
    time_s = np.arange(int(16_000 * seconds)) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (110 + 60 * seed) * time_s) * (1 + 0.5 * np.sin(6 * np.pi * time_s))
    return (tone + 0.01 * np.random.default_rng(seed).standard_normal(time_s.size)).astype(np.float32)


def image(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(_blocks(width, height, seed).astype(np.uint8))


def video(frames: int, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    first = _blocks(width, height, seed)
    return np.stack([np.clip(first + 6 * frame, 0, 255) for frame in range(frames)]).astype(np.uint8)


def _blocks(width: int, height: int, seed: int) -> NDArray[np.floating]:
    colours = np.random.default_rng(seed).integers(0, 255, (height // 16, width // 16, 3))
    return np.kron(colours, np.ones((16, 16, 1)))


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def turn(role: str, *parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


SYSTEM = turn("system", text("You are a helpful assistant."))

CASES = {
    "text": Case([SYSTEM, turn("user", text("Say hello to the world and count to ten."))]),
    "text without a system turn": Case([turn("user", text("Say hello."))]),
    "audio": Case([SYSTEM, turn("user", AUDIO, text("What do you hear?"))], OracleMedia(audios=[audio(1.7, 1)])),
    "image": Case([SYSTEM, turn("user", IMAGE, text("Describe it."))], OracleMedia(images=[image(160, 96, 2)])),
    "video": Case(
        [SYSTEM, turn("user", VIDEO, text("What happens?"))],
        OracleMedia(videos=[video(8, 96, 64, 3)], processor_kwargs=_VIDEO_KWARGS),
    ),
    "image, audio and video": Case(
        [SYSTEM, turn("user", AUDIO, IMAGE, text("Compare."), VIDEO, AUDIO, text("And this?"))],
        OracleMedia(
            images=[image(128, 128, 4)],
            audios=[audio(1.3, 5), audio(2.2, 6)],
            videos=[video(4, 64, 64, 7)],
            processor_kwargs=_VIDEO_KWARGS,
        ),
    ),
    "audio in video": Case(
        [SYSTEM, turn("user", VIDEO, text("What is said?"))],
        OracleMedia(audios=[audio(4.3, 8)], videos=[video(8, 64, 64, 9)], processor_kwargs=_VIDEO_KWARGS),
        use_audio_in_video=True,
    ),
    "audio in video before an image": Case(
        [SYSTEM, turn("user", VIDEO, text("What is said?"), IMAGE, text("And here?"))],
        OracleMedia(
            images=[image(96, 160, 10)],
            audios=[audio(4.3, 8)],
            videos=[video(8, 64, 64, 9)],
            processor_kwargs=_VIDEO_KWARGS,
        ),
        use_audio_in_video=True,
    ),
    "several turns": Case(
        [
            SYSTEM,
            turn("user", AUDIO, text("What do you hear?")),
            turn("assistant", text("A tone.")),
            turn("user", IMAGE, text("And what do you see?")),
            turn("assistant", text("Blocks.")),
            turn("user", text("Thank you.")),
        ],
        OracleMedia(images=[image(96, 96, 11)], audios=[audio(2.6, 12)]),
    ),
}
