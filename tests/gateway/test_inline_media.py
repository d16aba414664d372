"""Base64 inside a request."""

from __future__ import annotations

import asyncio
import base64
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadInput
from services.gateway.inline_media import EncodedMedia, InlineMedia, decode_all, decode_base64
from services.gateway.turn.conversation import InlineSource


@given(st.binary(min_size=1, max_size=500))
def test_base64_is_decoded_with_or_without_line_breaks(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decode_base64(EncodedMedia("p", text)) == data
    assert decode_base64(EncodedMedia("p", "\r\n".join(textwrap.wrap(text, 76)) + "\n")) == data


@given(st.binary(min_size=1, max_size=500))
def test_base64_may_be_url_safe_and_without_padding(data: bytes) -> None:
    for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        assert decode_base64(EncodedMedia("p", text)) == data
        assert decode_base64(EncodedMedia("p", text.rstrip("="))) == data


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        ("data:video/webm;codecs=vp8,opus;base64,", "video/webm"),
        ("data:audio/webm; codecs=opus;base64,", "audio/webm"),
        ("DATA:Image/PNG; base64,", "image/png"),
        ("data:image/png;name=a%20b.png;base64,", "image/png"),
        ("data:image/png;filename=photo(1).png;base64,", "image/png"),
        ('data:image/png;name="a;base64,b.png";base64,', "image/png"),
        ("DATA:Image/PNG;BASE64,", "image/png"),
        ("data:;base64,", ""),
    ],
)
def test_a_data_url_may_have_any_parameters(head: str, media_type: str) -> None:
    inline = InlineMedia(1000)
    source = inline.source(head + "AAAA", "p")
    assert source == InlineSource(0, media_type)
    assert decode_base64(inline.encoded[0]) == bytes(3)


def test_frames_joined_by_commas_get_told_of_the_video_part() -> None:
    inline = InlineMedia(1000)
    inline.source("data:video/jpeg;base64,/9j/AAAA,/9j/AAAA", "p")
    with pytest.raises(BadInput) as caught:
        decode_base64(inline.encoded[0])
    assert '"video": [URL, …]' in caught.value.message


@pytest.mark.parametrize(
    "text", ["A", "AA=", "AA=A", "AAAA====", "AA==AAAA", "AA==AA", "AAA\u00e9", "A.A", "A" * 99 + "!", "===="]
)
def test_broken_base64_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        decode_base64(EncodedMedia("messages[0].content[0].input_audio.data", text))
    assert caught.value.code == "invalid_base64"
    assert caught.value.param == "messages[0].content[0].input_audio.data"


@pytest.mark.parametrize("broken", ["", "AA==", "=", "A", "!!!!"])
def test_base64_of_many_chunks_is_decoded_as_one(broken: str) -> None:
    data = bytes(range(256)) * 6000  # two chunks
    text = base64.b64encode(data).decode()
    spaced = "\n".join(textwrap.wrap(text[:400_000], 76)) + "\n" + text[400_000:]
    middle = 1_200_000 if broken else 0
    media = EncodedMedia("p", "data:," + spaced[:middle] + broken + spaced[middle:], start=6)
    if broken:
        with pytest.raises(BadInput):
            decode_base64(media)
    else:
        assert decode_base64(media) == data


def test_base64_of_nothing_but_line_breaks_is_empty() -> None:
    with pytest.raises(BadInput) as caught:
        decode_base64(EncodedMedia("p", "\n\n"))
    assert caught.value.code == "empty_media"


async def test_decoding_large_media_does_not_block_the_event_loop() -> None:
    data = bytes(range(256)) * 50_000  # 12.8 MB: several chunks
    decoding = asyncio.ensure_future(decode_all([EncodedMedia("p", base64.b64encode(data).decode())]))
    turns = 0
    while not decoding.done():
        await asyncio.sleep(0)
        turns += 1
    assert await decoding == [data]
    assert turns > 10


async def test_each_media_keeps_the_index_that_it_was_given() -> None:
    inline = InlineMedia(1000)
    sources = [inline.source(base64.b64encode(data).decode(), "p", bare_base64=True) for data in (b"one", b"two")]
    decoded = await inline.decode()
    assert [decoded[source.index] for source in sources if isinstance(source, InlineSource)] == [b"one", b"two"]
