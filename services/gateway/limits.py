"""Limits on one request, the same over HTTP and gRPC, and on connections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.common.errors import TooLarge
from services.gateway.realtime.turns.options import TurnLimits
from services.gateway.turn.conversation import Message, text_bytes

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

# The largest chunk of Converse that is always accepted: gRPC's own default for messages.
MAX_CHUNK_BYTES = 4 * 1024**2
_FRAMING_BYTES = 1 << 16
# The HTTP server reads at most so much at a time.
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits that the operator sets."""

    max_body_bytes: int
    max_media_bytes: int
    max_text_bytes: int
    body_timeout_s: float
    request_timeout_s: float
    keep_alive_s: float
    max_choices: int = 4

    @property
    def max_message_bytes(self) -> int:
        """The largest message of Converse: its start, or a chunk."""
        return max(self.max_text_bytes, MAX_CHUNK_BYTES) + _FRAMING_BYTES


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What an HTTP connection may take. The times are those without a running request."""

    max_header_bytes: int
    header_timeout_s: float
    idle_timeout_s: float
    # Connections that had no request with a valid key yet.
    max_unauthenticated: int
    # The largest message of a WebSocket's client.
    max_event_bytes: int


@dataclass(frozen=True, slots=True)
class RealtimeLimits:
    """What realtime sessions may take."""

    max_sessions: int
    # Without a client event and a running response.
    idle_timeout_s: float
    max_session_s: float
    # How far audio may be ahead of a client that plays it as it comes.
    lead_s: float
    # Whether the thinker reads what the user says while they speak.
    reads_ahead: bool
    # Items and audio buffer of one session.
    max_conversation_bytes: int
    max_media_bytes: int
    max_text_bytes: int
    # How long the client may take to read what stands in the way of an event.
    send_timeout_s: float
    # How long a drain waits for the end of a turn that is being spoken.
    last_turn_s: float
    turns: TurnLimits
    # Whether there are several tenants, of which none may take all sessions.
    are_shared: bool = False


def check_text_bytes(messages: Iterable[Message], max_bytes: int, other_text: str = "") -> None:
    """Raise TooLarge where the messages and the other text, which go to the stages in one gRPC message, exceed
    `max_bytes`."""
    if text_bytes(messages) + len(other_text.encode()) > max_bytes:
        raise text_too_large(max_bytes)


def text_too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The request without its media is larger than {max_bytes} bytes. Send fewer or shorter messages.",
        param="messages",
        code="text_too_large",
    )
