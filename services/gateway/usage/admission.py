"""What a turn needs of its limits to be admitted. There are few different answers: each is made once."""

from __future__ import annotations

from functools import cache

from services.gateway.turn.amounts import FRAME_MS
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.operations import Vector


def takes_of(request: TurnRequest) -> Vector:
    """Return what is taken as it is admitted."""
    return _takes(is_free=request.intent.is_free, speaks=request.speaks)


def needs_of(request: TurnRequest) -> Vector:
    """Return what must be left beside that."""
    return _needs(is_said=bool(request.intent.said), speaks=request.speaks)


@cache
def _takes(*, is_free: bool, speaks: bool) -> Vector:
    takes = {} if is_free else {"requests": 1, "open_requests": 1}
    return takes | ({"open_voices": 1} if speaks else {})


@cache
def _needs(*, is_said: bool, speaks: bool) -> Vector:
    needs = {"requests": 1, "prompt_tokens": 1, "tokens": 1}
    if not is_said:  # else no text is generated for it
        needs["answer_tokens"] = 1
    return needs | ({"audio_out_ms": FRAME_MS, "audio_ms": FRAME_MS} if speaks else {})
