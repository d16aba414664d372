"""Files in messages of chat and in items of responses: what they hold reaches the model, or they are refused by their
type."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from services.common.errors import BadInput
from services.gateway.http.chat.parse import read_chat, read_request
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import messages_from
from services.gateway.http.json_body import parse_json
from services.gateway.http.responses.endpoint import READING
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.responses.translate import messages_in, pieces_from
from services.gateway.inline_media import InlineMedia
from services.gateway.turn.conversation import AudioPart, ImagePart, InlineSource, Part, TextPart, UrlSource, VideoPart

CHAT_PATH, PATH = "messages[0].content[0]", "input[0].content[0]"


def data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{bare(data)}"


def bare(data: bytes) -> str:
    return base64.b64encode(data).decode()


def of_chat(**fields: Any) -> Part:
    body = {"messages": [{"role": "user", "content": [{"type": "file", "file": fields}]}]}
    (message,) = messages_from(parse_json(json.dumps(body).encode(), ChatRequest), InlineMedia(1000))
    return message.parts[0]


def of_response(**fields: Any) -> Part:
    file = {"type": "input_file", **fields}
    request = ResponseRequest.model_validate({"input": [{"role": "user", "content": [file]}]})
    (message,) = messages_in(pieces_from(request, InlineMedia(1000)))
    return message.parts[0]


# How a part is read, its path, and that of its fields.
Form = tuple[Callable[..., Part], str, str]
forms = pytest.mark.parametrize(
    "form", [(of_chat, CHAT_PATH, f"{CHAT_PATH}.file"), (of_response, PATH, PATH)], ids=["chat", "responses"]
)


@forms
def test_text_is_read(form: Form) -> None:
    part_of, path, _ = form
    said = TextPart(path, "Grüße")
    for media_type in ("text/plain", "text/markdown", "application/json"):
        assert part_of(file_data=data_url(media_type, "Grüße".encode()), filename="a") == said
    assert part_of(file_data=data_url("text/csv;charset=utf-8", "\ufeffGrüße".encode())) == said
    assert part_of(file_data=data_url("application/octet-stream", "Grüße".encode()), filename="a.MD") == said
    assert part_of(file_data=bare("Grüße".encode()), filename="a.b.json") == said


@pytest.mark.parametrize("letter", ["a", "ü", "\n", "字"])
async def test_a_long_text_is_read_whole(letter: str) -> None:
    text = letter * 100_001
    fields = {"file_data": data_url("text/plain;charset=utf-8", text.encode())}
    body = json.dumps({"input": [{"role": "user", "content": [{"type": "input_file", **fields}]}]}).encode()
    _, pieces, _ = await read_request(body, READING, 1 << 20, 4 << 20)
    (message,) = messages_in(pieces)
    assert message.parts == [TextPart(PATH, text)]
    body = json.dumps({"messages": [{"role": "user", "content": [{"type": "file", "file": fields}]}]}).encode()
    (message,) = (await read_chat(body, 1 << 20, 4 << 20)).messages
    assert message.parts == [TextPart(CHAT_PATH, text)]


@forms
def test_media_is_media(form: Form) -> None:
    part_of, path, _ = form
    assert part_of(file_data=data_url("audio/wav", b"x")) == AudioPart(path, InlineSource(0, "audio/wav"))
    assert part_of(file_data=data_url("image/png", b"x")) == ImagePart(path, InlineSource(0, "image/png"))
    assert part_of(file_data=bare(b"x"), filename="a.webm") == VideoPart(path, InlineSource(0))
    url = "https://a.org/film.MP4?part=1"
    assert part_of(file_url=url) == VideoPart(path, UrlSource(url))
    url = "https://a.org/download"
    assert part_of(file_url=url, filename="a.flac") == AudioPart(path, UrlSource(url))


@forms
@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"file_data": data_url("application/pdf", b"%PDF")}, "file_data", "'application/pdf' are not served"),
        ({"file_data": data_url("application/pdf", b"%PDF"), "filename": "a.txt"}, "file_data", "not served"),
        ({"file_data": bare(b"%PDF"), "filename": "a.pdf"}, "file_data", "'pdf' are not served"),
        ({"file_url": "https://a.org/a.pdf"}, "file_url", "'pdf' are not served"),
        ({"file_url": "https://a.org/a.txt"}, "file_url", "'txt' are not served"),
        ({"file_url": "https://a.org/a"}, "file_url", "type and name do not tell"),
        ({"file_url": "https://[a/x"}, "file_url", "type and name do not tell"),
        ({"file_url": "a.png"}, "file_url", "no URL"),
        ({"file_data": "JVBERi0="}, "file_data", "type and name do not tell"),
        ({"file_data": "https://a.org/a.png", "filename": "a.png"}, "file_data", "no data: URL"),
        ({"file_data": "data:text/plain,hello", "filename": "a.txt"}, "file_data", "no data: URL"),
        ({"file_data": "data:;base64,"}, "file_data", "not served"),
        ({"file_data": data_url("text/plain", b"\xff\xfe")}, "file_data", "not UTF-8"),
        ({"file_data": "%", "filename": "a.txt"}, "file_data", "base64 is invalid"),
        ({"filename": "a.txt"}, "", "the file is missing"),
        ({"file_data": data_url("text/plain", b"x"), "file_url": "https://a.org/a.png"}, "", "one of"),
        ({"file_url": "https://a.org/a.png", "file_id": "file-1"}, "", "one of"),
    ],
    ids=range(17),
)
def test_others_are_refused(form: Form, fields: dict[str, str], param: str, says: str) -> None:
    part_of, _, at = form
    with pytest.raises(BadInput) as caught:
        part_of(**fields)
    assert caught.value.param == (f"{at}.{param}" if param else at)
    assert says in caught.value.message
