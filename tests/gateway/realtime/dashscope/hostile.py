"""Names that hostile events are made of."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel

from services.gateway.realtime.dashscope import schema

FIELDS = sorted(
    {
        name
        for kind in vars(schema).values()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name in kind.model_fields
    }
)
KINDS = sorted(get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(schema.ClientEvent)[0]))
WORDS = ["pcm", "pcm16", "pcm24", "smart_turn", "semantic_vad", "text", "audio", "/9j/4AAQ", "server_vad"]
