"""Makes the libraries load everything that they load late: a confined decoder cannot open a file."""

from __future__ import annotations

from base64 import b85decode
from io import BytesIO
from typing import Any

import av
import numpy as np
import soundfile
from PIL import AvifImagePlugin, BmpImagePlugin, Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin

from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import decode_audio
from services.preprocess.media.images import decode_image
from services.preprocess.media.samples import SAMPLE_RATE
from services.preprocess.media.sampling import VideoOptions
from services.preprocess.media.video import decode_video

# Pillow imports these within an open().
LATE_PLUGINS = (AvifImagePlugin, BmpImagePlugin, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin)
_SIDE = 64
_PICTURES = {
    "PNG": ("RGB", "RGBA", "P", "I;16"),
    "JPEG": ("RGB", "CMYK"),
    "GIF": ("RGB", "RGBA", "P"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB",),
    "TIFF": ("RGB", "LAB", "F"),
    "AVIF": ("RGB", "RGBA"),
}
_OPTIONS: dict[str, dict[str, Any]] = {"TIFF": {"compression": "tiff_lzw"}, "AVIF": {"speed": 10}}
# A black picture: its encoder would leave threads behind. Made by pillow-heif, 8 × 8 pixels at quality 1.
_HEIC = (
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004eZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l"
    "0RRC200001pa1~?00000001HY001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002|X>f9I0002oX>en20001W"
    "Xm(>m0RwOV0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDMA4O18@KU0|1Z!00RI30{|YNAb|yz>aLpR"
    ";31&EfB*mtfB*mk0EA)y0RRR>0l{;@i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L8000000000$0000$0000eV{Bn?00008000010000800001"
    "|NsBU00002|NsBU000020000GaA|mH000000|*ER0000OX>e^}0000000001009Mo0s{qv0000gZDe6|0000UC;_hp5)w?{`UAb^{^&l4S%9y*"
    "Wmuz`Tws$^w}1"
)


def warm_up(*, films: bool) -> None:
    """Decode one small file of each kind, made here; films where they are asked for."""
    limits = MediaLimits()
    Image.preinit()
    for kind, modes in _PICTURES.items():
        for mode in modes:
            out = BytesIO()
            Image.new(mode, (_SIDE, _SIDE)).save(out, kind, **_OPTIONS.get(kind, {}))
            decode_image(out.getvalue(), limits)
    decode_image(b85decode(_HEIC), limits)
    silence = np.zeros(SAMPLE_RATE // 2, np.float32)
    for kind, rate in (("WAV", 48_000), ("FLAC", 44_100), ("OGG", 48_000), ("MP3", 16_000)):
        out = BytesIO()
        soundfile.write(out, silence, rate, format=kind)
        decode_audio(out.getvalue(), limits)
    if films:
        decode_video(_film(), VideoOptions(factor=32), limits, with_sound=True)


def _film() -> bytes:
    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        picture: Any = container.add_stream("mpeg4", rate=8)
        picture.width, picture.height, picture.pix_fmt = _SIDE, _SIDE, "yuv420p"
        sound: Any = container.add_stream("aac", rate=48_000, layout="mono")
        pixels = np.zeros((_SIDE, _SIDE, 3), np.uint8)
        for _ in range(8):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for start in range(0, 24 * 1024, 1024):
            frame.pts = start
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return out.getvalue()
