"""The size of a request apart from its media: the messages as they go to the stages in one gRPC message."""

from __future__ import annotations

from collections.abc import Iterable

from antiphon.v1 import preprocess_pb2
from services.common.errors import TooLarge


def check_text_bytes(messages: Iterable[preprocess_pb2.Message], max_bytes: int) -> None:
    """Text, URLs and paths. Raises TooLarge."""
    if sum(message.ByteSize() for message in messages) > max_bytes:
        raise text_too_large(max_bytes)


def text_too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"Without its media the request is larger than {max_bytes} bytes.", param="messages", code="text_too_large"
    )
