"""Files in a response request: what they hold reaches the model, or they are refused by their type."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from services.common.errors import BadInput
from services.gateway.http.chat.parse import read_request
from services.gateway.http.responses.endpoint import READING
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.responses.translate import messages_in, pieces_from
from services.gateway.inline_media import InlineMedia
from services.gateway.turn.conversation import AudioPart, ImagePart, InlineSource, Part, TextPart, UrlSource, VideoPart

PATH = "input[0].content[0]"


def data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def part_of(**fields: Any) -> Part:
    file = {"type": "input_file", **fields}
    request = ResponseRequest.model_validate({"input": [{"role": "user", "content": [file]}]})
    (message,) = messages_in(pieces_from(request, InlineMedia(1000)))
    return message.parts[0]


def test_text_is_read() -> None:
    said = TextPart(PATH, "Grüße")
    for media_type in ("text/plain", "text/markdown", "application/json"):
        assert part_of(file_data=data_url(media_type, "Grüße".encode()), filename="a.txt") == said
    assert part_of(file_data=data_url("text/csv;charset=utf-8", "\ufeffGrüße".encode())) == said


@pytest.mark.parametrize("letter", ["a", "ü", "\n", "字"])
async def test_a_long_text_is_read_whole(letter: str) -> None:
    text = letter * 100_001
    file = {"type": "input_file", "file_data": data_url("text/plain;charset=utf-8", text.encode())}
    body = json.dumps({"input": [{"role": "user", "content": [file]}]}).encode()
    _, pieces, _ = await read_request(body, READING, 1 << 20, 4 << 20)
    (message,) = messages_in(pieces)
    assert message.parts == [TextPart(PATH, text)]


def test_media_is_media() -> None:
    assert part_of(file_data=data_url("audio/wav", b"x")) == AudioPart(PATH, InlineSource(0, "audio/wav"))
    assert part_of(file_data=data_url("image/png", b"x")) == ImagePart(PATH, InlineSource(0, "image/png"))
    url = "https://a.org/film.MP4?part=1"
    assert part_of(file_url=url) == VideoPart(PATH, UrlSource(url))
    url = "https://a.org/download"
    assert part_of(file_url=url, filename="a.flac") == AudioPart(PATH, UrlSource(url))


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"file_data": data_url("application/pdf", b"%PDF")}, "file_data", "'application/pdf' are not served"),
        ({"file_url": "https://a.org/a.pdf"}, "file_url", "'pdf' are not served"),
        ({"file_url": "https://a.org/a"}, "file_url", "whose name tells no type"),
        ({"file_url": "https://[a/x"}, "file_url", "whose name tells no type"),
        ({"file_data": "JVBERi0="}, "file_data", "no data: URL"),
        ({"file_data": "data:;base64,"}, "file_data", "not served"),
        ({"file_data": data_url("text/plain", b"\xff\xfe")}, "file_data", "not UTF-8"),
        ({"filename": "a.txt"}, "", "the file is missing"),
        ({"file_data": data_url("text/plain", b"x"), "file_url": "https://a.org/a.png"}, "", "one of"),
    ],
    ids=["pdf", "pdf by URL", "no name", "no URL", "base64 alone", "no type", "not UTF-8", "nothing", "both"],
)
def test_others_are_refused(fields: dict[str, str], param: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        part_of(**fields)
    assert caught.value.param == (f"{PATH}.{param}" if param else PATH)
    assert says in caught.value.message
