"""What a file is by its first bytes, whether it is complete, and which demuxers and codecs may open it."""

from __future__ import annotations

import re
import struct

from services.preprocess.media.problems import invalid

# libsndfile opens these; FFmpeg opens everything else that has sound.
SOUNDFILE_FORMATS = frozenset({"wav", "flac", "ogg", "mp3"})
IMAGE_FORMATS = frozenset({"png", "jpeg", "gif", "webp"})
# Still pictures in an MP4 container, by brand. They are recognised, but not decoded.
_STILL_BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic"}
# FFmpeg's names. Nothing else is ever opened, whatever a file pretends to be: no playlists, no images, no raw formats,
# no decoder that few files need.
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,aac,flac,wav"
VIDEO_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "libvpx", "libvpx-vp9"})
AUDIO_CODECS = frozenset(
    {"aac", "alac", "mp3", "mp3float", "opus", "libopus", "vorbis", "libvorbis", "flac", "pcm_s16le", "pcm_s24le"}
    | {"pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_u8", "pcm_alaw", "pcm_mulaw", "pcm_s16be"}
)
# The same, as messages name them.
IMAGE_NAMES = "png, jpeg, webp or gif"
AUDIO_NAMES = "wav, mp3, flac, ogg, opus, aac or m4a"
VIDEO_NAMES = "mp4, webm or mkv"
VIDEO_CODEC_NAMES = "h264, hevc, vp8, vp9, av1 or mpeg4"
AUDIO_CODEC_NAMES = "aac, alac, mp3, opus, vorbis, flac or pcm"
CONTAINER_OPTIONS = {
    "format_whitelist": DEMUXERS,
    "codec_whitelist": ",".join(sorted(VIDEO_CODECS | AUDIO_CODECS)),
    "protocol_whitelist": "",
}


def sniff(data: bytes) -> str:
    """Return "png", "jpeg", "gif", "webp", "avif", "heic", "wav", "flac", "ogg", "mp3", "mp4", "matroska" or "aac";
    "" where the format is unknown."""
    head = data[:16]
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] in (b"RIFF", b"RF64"):
        return {b"WAVE": "wav", b"WEBP": "webp"}.get(head[8:12], "")
    if head.startswith(b"fLaC"):
        return "flac"
    if head.startswith(b"OggS"):
        return "ogg"
    if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS:
        return _STILL_BRANDS[head[8:12]]
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"ID3"):
        return "mp3"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "aac" if head[1] & 0x06 == 0 else "mp3"
    return ""


def require_content(data: bytes) -> None:
    """Raise MediaProblem for an empty file, and for one that is shorter than its own headers say."""
    if not data:
        raise invalid("The file is empty.")
    if declared_bytes(data) > len(data):
        raise invalid("The file is truncated: it is shorter than its own headers say.")


def declared_bytes(data: bytes) -> int:
    """Return the length that the file's own headers give; 0 where they give none."""
    measure = {"wav": _riff, "webp": _riff, "mp4": _boxes, "matroska": _segment, "ogg": _last_page, "mp3": _mp3_tag}
    read = measure.get(sniff(data))
    try:
        return read(data) if read else 0
    except (struct.error, IndexError):
        return len(data) + 1  # it ends within a header


def _riff(data: bytes) -> int:
    position, size = 12, len(data)
    while position + 8 <= size:
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if length >= 0x7FFFFF00:  # a recorder that never went back to write the length
            return 0
        end = position + 8 + length
        if name == b"data" or end > size:
            return end
        position = end + length % 2
    return 0


def _boxes(data: bytes) -> int:
    position, size = 0, len(data)
    while position < size:
        if position + 8 > size:
            return position + 8
        (length,) = struct.unpack_from(">I", data, position)
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
        if length == 0:  # to the end of the file
            return size
        if length < 8:
            return 0
        position += length
    return position


def _segment(data: bytes) -> int:
    header, width = _vint(data, 4)
    position = 4 + width + header
    if data[position : position + 4] != b"\x18\x53\x80\x67":
        return 0
    length, width = _vint(data, position + 4)
    if length == (1 << (7 * width)) - 1:  # unknown: a live recording
        return 0
    return position + 4 + width + length


def _vint(data: bytes, position: int) -> tuple[int, int]:
    width = 9 - data[position].bit_length()
    if width > 8:
        return 0, 1
    value = data[position] & (0xFF >> width)
    for byte in data[position + 1 : position + width]:
        value = value << 8 | byte
    return value, width


def _last_page(data: bytes) -> int:
    start = data.rfind(b"OggS")
    segments = data[start + 26]
    table = data[start + 27 : start + 27 + segments]
    return start + 27 + segments + sum(table)


def _mp3_tag(data: bytes) -> int:
    """LAME and FFmpeg write the stream's length into the first frame ("Xing" or "Info"), counted from that frame."""
    start = 0
    if data.startswith(b"ID3"):
        start = 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])
    for name in (b"Xing", b"Info"):
        at = data.find(name, start, start + 200)
        if at < 0:
            continue
        (flags,) = struct.unpack_from(">I", data, at + 4)
        if flags & 2:
            (length,) = struct.unpack_from(">I", data, at + 8 + 4 * (flags & 1))
            return start + length
    return 0


def describe_codec(data: bytes, kind: str, track: str) -> str:
    """Return how a file names the codec of its "audio" or "video" track, for a codec that FFmpeg does not know."""
    if kind == "wav" and (at := data.find(b"fmt ", 12)) >= 0 and at + 10 <= len(data):
        return f"WAV format tag 0x{int.from_bytes(data[at + 8 : at + 10], 'little'):04x}"
    if kind == "matroska" and (name := re.search(b"\x86.(%c_[A-Z0-9/_.]{1,32})" % track[0].upper().encode(), data)):
        return name[1].decode()
    if kind == "mp4":
        known = re.findall(rb"stsd.{12}([A-Za-z0-9 ._-]{4})", data, re.DOTALL)
        if known:
            return "MP4 code " + " or ".join(sorted({code.decode().strip() for code in known})[:4])
    return "no name that is known"
