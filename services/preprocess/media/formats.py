"""What a file is by its first bytes, whether it is complete, and which demuxers and codecs may open it."""

from __future__ import annotations

import re
import struct

from services.preprocess.media.problems import invalid

# libsndfile opens these; FFmpeg opens everything else that has sound.
SOUNDFILE_FORMATS = frozenset({"wav", "flac", "ogg", "mp3", "aiff", "caf", "au", "w64"})
IMAGE_FORMATS = frozenset({"png", "jpeg", "gif", "webp", "bmp", "tiff", "avif", "heic"})
# Pictures in an MP4 container, by brand. The general brands of pictures come with a particular one.
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_GENERAL_BRANDS = frozenset({b"mif1", b"mif2", b"msf1"})
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Lengths from here on are no lengths: a recorder that writes to a pipe cannot go back to set them.
_UNWRITTEN = 0x7FFFFF00
# Chunks that follow a WAV's samples.
_AFTER_SAMPLES = frozenset({b"LIST", b"id3 ", b"ID3 ", b"fact", b"cue ", b"bext", b"smpl", b"JUNK", b"PAD "})
# Sizes of the header that follows a BMP's first 14 bytes.
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
# FFmpeg's names. Nothing else is ever opened, whatever a file pretends to be: no playlists, no images, no raw formats,
# no decoder that few files need.
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,aac,flac,wav,aiff,caf,au,w64,amr,avi,mpegts,mpeg,flv"
VIDEO_CODECS = frozenset(
    {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "libvpx", "libvpx-vp9"}
    # Of cameras, phones, broadcasts and archives.
    | {"mjpeg", "h263", "flv", "mpeg1video", "mpeg2video", "msmpeg4", "theora"}
)
AUDIO_CODECS = frozenset(
    {"aac", "alac", "mp3", "mp3float", "opus", "libopus", "vorbis", "libvorbis", "flac"}
    # Of phones, broadcasts and archives.
    | {"amrnb", "amrwb", "ac3", "eac3", "mp2", "mp2float", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt"}
    | {"pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw"}
    | {f"pcm_{kind}{order}" for kind in ("s16", "s24", "s32", "f32", "f64") for order in ("le", "be")}
)
# The same, as messages name them.
IMAGE_NAMES = "png, jpeg, webp, gif, avif, heic, bmp or tiff"
AUDIO_NAMES = "wav, mp3, flac, ogg, opus, aac, m4a, amr, aiff, caf or au"
VIDEO_NAMES = "mp4, mov, 3gp, webm, mkv, avi, ts, mpeg, flv or ogv"
VIDEO_CODEC_NAMES = "h264, hevc, vp8, vp9, av1, mpeg4, mpeg2, h263, mjpeg or theora"
AUDIO_CODEC_NAMES = "aac, alac, mp3, mp2, opus, vorbis, flac, amr, ac3, adpcm or pcm"
CONTAINER_OPTIONS = {
    "format_whitelist": DEMUXERS,
    "codec_whitelist": ",".join(sorted(VIDEO_CODECS | AUDIO_CODECS)),
    "protocol_whitelist": "",
}


_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    *((magic, "tiff") for magic in _TIFF_MAGIC),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
    (b".snd", "au"),
    (b"riff\x2e\x91\xcf\x11", "w64"),
    (b"FLV\x01", "flv"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"ID3", "mp3"),
)
# What a file of chunks is by its form's name.
_FORMS = {b"WAVE": "wav", b"WEBP": "webp", b"AVI ": "avi", b"AIFF": "aiff", b"AIFC": "aiff"}


def sniff(data: bytes) -> str:
    """Return one of IMAGE_FORMATS or SOUNDFILE_FORMATS, or "mp4", "matroska", "aac", "amr", "avi", "flv", "mpegts" or
    "mpeg"; "" where the format is unknown."""
    head = data[:16]
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head[:4] in (b"RIFF", b"RF64", b"RIFX", b"FORM"):
        return _FORMS.get(head[8:12], "")
    if head[4:8] == b"ftyp" and (still := _still_picture(data)):
        return still
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mp4"
    if head[:2] == b"BM" and len(head) == 16 and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    # 188 bytes a packet, or 192 with a camera's clock before each.
    if data[:1] == data[188:189] == data[376:377] == b"G" or data[4:5] == data[196:197] == data[388:389] == b"G":
        return "mpegts"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "aac" if head[1] & 0x06 == 0 else "mp3"
    return ""


def _still_picture(data: bytes) -> str:
    """Return "avif" or "heic" where the brands of an MP4 file say that it holds pictures, else ""."""
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(int.from_bytes(data[:4], "big"), 256), 4))]
    if brands[0] not in _AVIF_BRANDS | _HEIC_BRANDS | _GENERAL_BRANDS:
        return ""
    return "avif" if not _AVIF_BRANDS.isdisjoint(brands) else "heic"


def require_content(data: bytes) -> None:
    """Raise MediaProblem for an empty file, and for one that is shorter than its own headers say."""
    if not data:
        raise invalid("The file is empty.")
    if declared_bytes(data) > len(data):
        raise invalid("The file is truncated: it is shorter than its own headers say.")


def declared_bytes(data: bytes) -> int:
    """Return the length that the file's own headers give; 0 where they give none."""
    measure = {
        **dict.fromkeys(("wav", "webp", "avi"), _riff),
        **dict.fromkeys(("mp4", "avif", "heic"), _boxes),
        "matroska": _segment,
        "ogg": _last_page,
        "mp3": _mp3_tag,
        "aiff": _form,
    }
    read = measure.get(sniff(data))
    try:
        return read(data) if read else 0
    except (struct.error, IndexError):
        return len(data) + 1  # it ends within a header


def _riff(data: bytes) -> int:
    position, size = 12, len(data)
    if data.startswith(b"RIFX"):  # its numbers are the other way round
        return 0
    while position + 8 <= size:
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if length >= _UNWRITTEN or (name == b"LIST" and not length):  # a recorder that never went back to write it
            return 0
        end = position + 8 + length
        if name == b"data" or end > size:
            return end
        position = end + length % 2
    return 0


def unwritten_length(data: bytes) -> int:
    """Return where a WAV's length of its samples stands, if it says 0 and samples follow; else 0."""
    if not data.startswith(b"RIFF") or sniff(data) != "wav":
        return 0
    position = 12
    while position + 12 < len(data):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name == b"data":
            is_empty = length or data[position + 8 : position + 12] in _AFTER_SAMPLES
            return 0 if is_empty else position + 4
        position += 8 + length + length % 2
    return 0


def _form(data: bytes) -> int:
    length = int.from_bytes(data[4:8], "big")
    return 0 if length == 0 or length >= _UNWRITTEN else 8 + length


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


def is_chained_ogg(data: bytes) -> bool:
    """Return whether another stream begins in an Ogg file after one has ended: in joined files, or of a radio."""
    position, has_ended = 0, False
    while data.startswith(b"OggS", position) and position + 27 <= len(data):
        flags, segments = data[position + 5], data[position + 26]
        if has_ended and flags & 2:
            return True
        has_ended = has_ended or bool(flags & 4)
        table = position + 27
        position = table + segments + sum(data[table : table + segments])
    return False


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
