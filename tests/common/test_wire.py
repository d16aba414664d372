"""Count the fields of a serialized protobuf message."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from antiphon.v1 import gateway_pb2, preprocess_pb2, thinker_pb2
from services.common.errors import TooLarge
from services.common.wire import check_field_count

REQUEST = gateway_pb2.ConverseRequest.DESCRIPTOR


def request(parts: int = 0, messages: int = 0, stop_ids: int = 0, text: str = "") -> bytes:
    some = [preprocess_pb2.Part(text=text)] * parts
    start = gateway_pb2.ConverseStart(
        messages=[preprocess_pb2.Message(role="user", parts=some), *[preprocess_pb2.Message()] * messages],
        sampling=thinker_pb2.ThinkerSampling(stop_token_ids=[1] * stop_ids),
    )
    return gateway_pb2.ConverseRequest(start=start).SerializeToString()


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (request(), 4),  # start, a message, its role, sampling
        (request(messages=100), 104),
        (request(parts=10, text="a" * 300), 24),  # each part, and its text
        (request(stop_ids=50), 55),  # the list and its numbers
        (request(text="\n\x02\n\x00" * 100, parts=1), 6),  # text that looks like messages
    ],
)
def test_fields_of_nested_messages_count(data: bytes, fields: int) -> None:
    check_field_count(data, REQUEST, fields)
    with pytest.raises(TooLarge):
        check_field_count(data, REQUEST, fields - 1)


@given(st.binary(max_size=200))
def test_broken_bytes_are_left_to_the_parser(data: bytes) -> None:
    check_field_count(data, REQUEST, 1000)
    with contextlib.suppress(DecodeError):
        gateway_pb2.ConverseRequest.FromString(data)
