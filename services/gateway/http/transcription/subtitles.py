"""The segments of a transcription as subtitles. Pure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal, NamedTuple

SubtitleFormat = Literal["srt", "vtt"]


class Segment(NamedTuple):
    """What is said from `start_s` to `end_s` of the recording. `text` is not empty."""

    start_s: float
    end_s: float
    text: str


def subtitles(segments: Sequence[Segment], kind: SubtitleFormat) -> str:
    """Return a file of one cue a segment: SubRip's, or WebVTT's."""
    return _srt(segments) if kind == "srt" else _vtt(segments)


def _srt(segments: Sequence[Segment]) -> str:
    return "".join(f"{number}\n{_times(one, ',')}\n{_lines(one.text)}\n\n" for number, one in enumerate(segments, 1))


def _vtt(segments: Sequence[Segment]) -> str:
    # Its text has entities, and `-->` has no place in it.
    cues = (f"\n{_times(one, '.')}\n{html.escape(_lines(one.text), quote=False)}\n" for one in segments)
    return "WEBVTT\n" + "".join(cues)


def _times(segment: Segment, mark: str) -> str:
    return f"{_clock(segment.start_s, mark)} --> {_clock(segment.end_s, mark)}"


def _clock(seconds: float, mark: str) -> str:
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{ms:03}"


def _lines(text: str) -> str:
    """Return the text without empty lines: one ends a cue."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
