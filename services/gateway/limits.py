"""Limits on one request, the same over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from antiphon.v1 import preprocess_pb2
from services.common.errors import TooLarge

MAX_MESSAGES = 2048
# Parts of one message, and of all messages together.
MAX_PARTS = 1024
MAX_ALL_PARTS = 4096
# Frames of one video that is given as a list of frames: as many as the processor samples from a video.
MAX_FRAMES = 768
# JSON values or protobuf fields of a request: more than the largest number of messages and parts needs.
MAX_VALUES = 40_000
MAX_STOPS = 16
MAX_STOP_TOKEN_IDS = 64
MAX_BIASES = 1024
# Characters of a model's name, a voice, and a conversation's id.
MAX_NAME_CHARS = 512


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits that the operator sets."""

    max_body_bytes: int
    max_media_bytes: int
    max_text_bytes: int
    body_timeout_s: float
    request_timeout_s: float
    keep_alive_s: float


def check_text_bytes(messages: Iterable[preprocess_pb2.Message], max_bytes: int) -> None:
    """Raise TooLarge where the messages, which go to the stages in one gRPC message, exceed `max_bytes`."""
    if sum(message.ByteSize() for message in messages) > max_bytes:
        raise text_too_large(max_bytes)


def text_too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The request without its media is larger than {max_bytes} bytes. Send fewer or shorter messages.",
        param="messages",
        code="text_too_large",
    )
