"""How much one request may hold and how long it may take, over HTTP and over gRPC alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from antiphon.v1 import preprocess_pb2
from services.common.errors import TooLarge

MAX_MESSAGES = 2048
# Of one message, and of all messages together.
MAX_PARTS = 1024
MAX_ALL_PARTS = 4096
# Of one video given as a list of frames: as many as the processor samples of a video at most.
MAX_FRAMES = 768
# Of all that a body holds, in JSON's terms or protobuf's: more than the messages and parts above take.
MAX_VALUES = 40_000
MAX_STOPS = 16
MAX_STOP_TOKEN_IDS = 64
MAX_BIASES = 1024
# Of a model's name, and of what tells a conversation from others.
MAX_NAME_CHARS = 512


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What the operator allows."""

    max_body_bytes: int
    max_media_bytes: int
    max_text_bytes: int
    body_timeout_s: float
    request_timeout_s: float
    keep_alive_s: float


def check_text_bytes(messages: Iterable[preprocess_pb2.Message], max_bytes: int) -> None:
    """Bound the messages as they go to the stages in one gRPC message: text, URLs and paths. Raise TooLarge."""
    if sum(message.ByteSize() for message in messages) > max_bytes:
        raise text_too_large(max_bytes)


def text_too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The request without its media is larger than {max_bytes} bytes. Send fewer or shorter messages.",
        param="messages",
        code="text_too_large",
    )
