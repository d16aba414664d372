"""Segments, SubRip and WebVTT of a recording that is cut, read by strict parsers."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from services.gateway.http.transcription.subtitles import Segment, subtitles
from tests.fixtures.documented import documented
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.stages import Stages, scripted_stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Start and end in seconds, and the text.
Cue = tuple[float, float, str]
# The scripted worker cuts at each "|": 0.1 s, and 0.2 s more.
FILE = ("meeting.mp3", b"a" * 1600 + b"|" + b"b" * 3200, "audio/mpeg")
TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"


def srt_cues(file: str) -> list[Cue]:
    """Read a SubRip file: numbers from 1 on, times, lines, and an empty line behind each cue."""
    cues: list[Cue] = []
    while file:
        head = re.match(r"(\d+)\n(\d\d+:[0-5]\d:[0-5]\d,\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d,\d{3})\n", file)
        assert head is not None, file[:100]
        text, end, file = file[head.end() :].partition("\n\n")
        assert (int(head[1]), bool(text), end) == (len(cues) + 1, True, "\n\n")
        cues.append((_seconds(head[2]), _seconds(head[3]), text))
    return _ordered(cues)


def vtt_cues(file: str) -> list[Cue]:
    """Read a WebVTT file: its signature, and an empty line before each cue. Its text has entities for & and <."""
    signature, *blocks = file.removesuffix("\n").split("\n\n")
    assert signature == "WEBVTT"
    cues: list[Cue] = []
    for block in blocks:
        times, *lines = block.split("\n")
        known = re.fullmatch(r"(\d\d+:[0-5]\d:[0-5]\d\.\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d\.\d{3})", times)
        assert known is not None, times
        text = "\n".join(lines)
        assert text
        assert "<" not in text
        assert "-->" not in text
        assert re.search(r"&(?!amp;|lt;|gt;)", text) is None
        cues.append((_seconds(known[1]), _seconds(known[2]), html.unescape(text)))
    return _ordered(cues)


def _seconds(clock: str) -> float:
    hours, minutes, seconds = re.split(r":", clock.replace(",", "."))
    return round(int(hours) * 3600 + int(minutes) * 60 + float(seconds), 3)


def _ordered(cues: list[Cue]) -> list[Cue]:
    assert all(start < end for start, end, _ in cues)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(cues))
    return cues


ODD: list[Segment] = [
    Segment(0.0, 9.9996, "Fish & chips\n\n\n  <i>--> now</i>  "),
    Segment(10.0, 3599.9999, "1\n00:00:01,000 --> 00:00:02,000"),
    Segment(3600.5, 360_000.25, "ü 你好"),
]


async def test_any_text_is_one_cue() -> None:
    times = [(0.0, 10.0), (10.0, 3600.0), (3600.5, 360_000.25)]
    texts = ["Fish & chips\n<i>--> now</i>", "1\n00:00:01,000 --> 00:00:02,000", "ü 你好"]
    expected = [(*span, text) for span, text in zip(times, texts, strict=True)]
    assert srt_cues(subtitles(ODD, "srt")) == expected
    assert vtt_cues(subtitles(ODD, "vtt")) == expected


async def test_a_recording_that_says_nothing_has_no_cues() -> None:
    assert srt_cues(subtitles([], "srt")) == []
    assert vtt_cues(subtitles([], "vtt")) == []


@pytest_asyncio.fixture(loop_scope="module")
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, workers=1) as running:
        yield running
        await wait_until(running.clean)


async def test_subtitles_are_the_pieces_of_the_recording(stages: Stages) -> None:
    said = stages.story.text.strip()
    expected = [(0.0, 0.1, said), (0.1, 0.3, said)]
    asked: dict[str, Any] = {"file": FILE, "model": INSTRUCT.name, "chunking_strategy": "auto"}
    async with openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=API_KEY, max_retries=0) as client:
        srt: Any = await client.audio.transcriptions.create(**asked, response_format="srt")
        vtt: Any = await client.audio.transcriptions.create(**asked, response_format="vtt")
        verbose: Any = await client.audio.transcriptions.create(
            **asked, response_format="verbose_json", timestamp_granularities=["segment"]
        )
    assert (srt_cues(srt), vtt_cues(vtt)) == (expected, expected)
    assert [(one.start, one.end, one.text) for one in verbose.segments] == expected
    assert [one.id for one in verbose.segments] == [0, 1]
    assert (verbose.duration, verbose.text.split()) == (0.3, f"{said} {said}".split())
    assert verbose.words is None


async def test_segments_are_as_documented(stages: Stages) -> None:
    document = documented((await stages.gateway.client.get("/openapi.json")).content)
    for response_format in ("verbose_json", "srt"):
        form = {"chunking_strategy": "auto", "response_format": response_format}
        answer = await stages.gateway.client.post(TRANSCRIPTIONS, data=form, files={"file": FILE})
        assert answer.status_code == 200
        await document.check(answer)


async def test_a_translation_has_them_and_a_piece_may_be_shorter(stages: Stages) -> None:
    form = {"chunking_strategy": "auto", "response_format": "vtt", "antiphon_piece_s": "7.5"}
    answer = await stages.gateway.client.post(TRANSLATIONS, data=form, files={"file": FILE})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert len(vtt_cues(answer.text)) == 2
    await stages.gateway.client.post(TRANSCRIPTIONS, data=form | {"antiphon_piece_s": "3000"}, files={"file": FILE})
    (worker,) = stages.preprocess
    assert [cut.piece_s for cut in worker.cuts] == [7.5, 120]
