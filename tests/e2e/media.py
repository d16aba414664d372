"""Small real media for requests: a photograph, a tone, a video with sound."""

from __future__ import annotations

import base64
import io
import math
import struct
import wave
from functools import cache
from typing import Any

import av
import numpy as np
from PIL import Image
from skimage import data


@cache
def photograph_png() -> bytes:
    target = io.BytesIO()
    Image.fromarray(data.astronaut()).resize((96, 64)).save(target, "PNG")
    return target.getvalue()


@cache
def tone_wav(seconds: float = 1.5, rate: int = 22_050) -> bytes:
    """Return a rising tone in stereo, at a rate that needs resampling."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        for n in range(int(seconds * rate)):
            value = int(12_000 * math.sin(2 * math.pi * (200 + 0.05 * n) * n / rate))
            file.writeframesraw(struct.pack("<hh", value, -value))
    return target.getvalue()


@cache
def clip_mp4() -> bytes:
    """Return a video of two seconds, 96 × 64, eight frames a second, with sound."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        pictures: Any = container.add_stream("mpeg4", rate=8)
        pictures.width, pictures.height, pictures.pix_fmt = 96, 64, "yuv420p"
        sound: Any = container.add_stream("aac", rate=16_000)
        photo = np.asarray(Image.fromarray(data.astronaut()).resize((96, 64)))
        for i in range(16):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.roll(photo, 4 * i, axis=1), format="rgb24")))
        wav = 0.3 * np.sin(2 * np.pi * 300 * np.arange(32_000, dtype=np.float32) / 16_000)
        frame = av.AudioFrame.from_ndarray(wav[None, :].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux([*pictures.encode(None), *sound.encode(None)])
    return target.getvalue()


def data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def image_part(content: bytes | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url("image/png", content or photograph_png())}}


def audio_part(content: bytes | None = None) -> dict[str, Any]:
    encoded = base64.b64encode(tone_wav() if content is None else content).decode()
    return {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}


def video_part(content: bytes | None = None) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": data_url("video/mp4", content or clip_mp4())}}


def frames_part() -> dict[str, Any]:
    """A silent video."""
    return {"type": "video", "video": [data_url("image/png", photograph_png())] * 4}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
