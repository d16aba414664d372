"""Media files in every accepted format, made by real encoders when a test asks."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image
from skimage import data as photographs

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


def tone(seconds: float, rate: int = 16_000, channels: int = 1, hz: float = 220.0, seed: int = 0) -> Samples:
    """Return [frames, channels]: a wavering tone with some noise, different on each channel."""
    t = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(seed).standard_normal((channels, t.size))
    waves = [
        0.3 * np.sin(2 * np.pi * hz * (1 + c / 3) * t) * (1 + 0.5 * np.sin(6 * np.pi * t)) for c in range(channels)
    ]
    return (np.stack(waves) + 0.01 * noise).T.astype(np.float32)


def sound_file(samples: Samples, rate: int, kind: str) -> bytes:
    """Encode a sound. `kind`: wav, wav-float, flac, mp3, ogg, opus (by libsndfile); m4a, webm (by FFmpeg)."""
    if kind in ("m4a", "webm"):
        return _muxed_sound(samples, rate, {"m4a": ("mp4", "aac"), "webm": ("webm", "libopus")}[kind])
    written, subtype = {
        "wav": ("WAV", "PCM_16"),
        "wav-float": ("WAV", "FLOAT"),
        "flac": ("FLAC", "PCM_16"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
        "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"),
    }[kind]
    out = BytesIO()
    soundfile.write(out, samples, rate, format=written, subtype=subtype)
    return out.getvalue()


def _muxed_sound(samples: Samples, rate: int, how: tuple[str, str]) -> bytes:
    out = BytesIO()
    with av.open(out, "w", format=how[0]) as container:
        _encode_sound(container, _sound_track(container, how[1], samples, rate), samples, rate)
    return out.getvalue()


def _sound_track(container: Any, codec: str, samples: Samples, rate: int) -> Any:
    return container.add_stream(codec, rate=rate, layout=_layout(samples))


def _layout(samples: Samples) -> str:
    return {1: "mono", 2: "stereo"}[samples.shape[1]]


def _encode_sound(container: Any, track: Any, samples: Samples, rate: int) -> None:
    layout = _layout(samples)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
    frame.sample_rate = rate
    frame.pts = 0
    resampler = av.AudioResampler(
        format=track.format, layout=layout, rate=track.rate, frame_size=track.frame_size or 1024
    )
    for resampled in (*resampler.resample(frame), *resampler.resample(None)):
        container.mux(track.encode(resampled))
    container.mux(track.encode(None))


def video_file(
    frames: int = 40,
    fps: Fraction | int = 10,
    size: tuple[int, int] = (96, 64),
    kind: str = "mp4",
    sound: Samples | None = None,
    sound_rate: int = 48_000,
) -> bytes:
    """Encode a video without equal frames. `kind`: mp4, mkv (H.264), webm (VP9), mpeg4 (MPEG-4 part 2 in mp4)."""
    container_name, codec, sound_codec = {
        "mp4": ("mp4", "libx264", "aac"),
        "webm": ("webm", "libvpx-vp9", "libopus"),
        "mkv": ("matroska", "libx264", "aac"),
        "mpeg4": ("mp4", "mpeg4", "aac"),
    }[kind]
    out = BytesIO()
    with av.open(out, "w", format=container_name) as container:
        track: Any = container.add_stream(codec, rate=fps)
        track.width, track.height = size
        track.pix_fmt = "yuv420p"
        if kind == "webm":
            track.options = {"deadline": "realtime", "cpu-used": "8"}
        sound_track: Any = _sound_track(container, sound_codec, sound, sound_rate) if sound is not None else None
        for pixels in moving_picture(frames, size):
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode(None))
        if sound is not None:
            _encode_sound(container, sound_track, sound, sound_rate)
    return out.getvalue()


def moving_picture(frames: int, size: tuple[int, int]) -> list[Pixels]:
    """Return frames of a photograph that moves and grows brighter."""
    width, height = size
    photo = np.asarray(Image.fromarray(photographs.astronaut()).resize((2 * width, 2 * height)))
    return [
        np.clip(
            photo[i % height : i % height + height, i % width : i % width + width].astype(np.int16) + 2 * i % 60, 0, 255
        ).astype(np.uint8)
        for i in range(frames)
    ]


def image_file(pixels: Pixels, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, kind.upper(), **options)
    return out.getvalue()


def decoded_frames(file: bytes, kind: str) -> list[Any]:
    """Return all frames of a file's first "video" or "audio" track, as FFmpeg decodes them."""
    with av.open(BytesIO(file), "r") as container:
        streams: Any = container.streams
        return list(container.decode(getattr(streams, kind)[0]))


def photograph() -> Pixels:
    """Return a photograph of a cat: [300, 451, 3]."""
    return photographs.chelsea()
