"""The formats of spoken answers, and the codec and container of those that are encoded.

`wav` and `pcm16` are samples. The others are files, streamed or whole: what a client gets of a stream, joined, is a
file that players open. A stream is written in one pass, so mp3 and flac do not tell their length in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

AudioFormat = Literal["wav", "pcm16", "mp3", "opus", "flac", "aac"]
FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)


@dataclass(frozen=True, slots=True)
class Codec:
    """FFmpeg's names and options. The codecs take 24 kHz as it is."""

    encoder: str
    container: str
    options: Mapping[str, str]
    # Of an encoder in use (bench.audio_formats).
    memory_bytes: int
    container_options: Mapping[str, str] = field(default_factory=dict[str, str])
    # Further ones of a container that is streamed.
    when_streamed: Mapping[str, str] = field(default_factory=dict[str, str])


CODECS: Mapping[str, Codec] = {
    # A stream has no tag and no header of lengths, which is written last.
    "mp3": Codec(
        "libmp3lame", "mp3", {"b": "64000"}, 512 * 1024, when_streamed={"id3v2_version": "0", "write_xing": "0"}
    ),
    # In a stream each packet of 20 ms is an Ogg page of its own, so that none waits for others.
    "opus": Codec("libopus", "ogg", {"b": "32000"}, 128 * 1024, when_streamed={"page_duration": "20000"}),
    # A block is one frame of the talker's codec. There is no room for tags, which would be 8 KiB of zeros. FFmpeg's
    # encoder has room for eight channels of the longest blocks.
    "flac": Codec("flac", "flac", {"frame_size": "1920"}, 7 * 1024**2, {"metadata_header_padding": "0"}),
    # ADTS: each frame has a header.
    "aac": Codec("aac", "adts", {"b": "64000"}, 768 * 1024),
}
