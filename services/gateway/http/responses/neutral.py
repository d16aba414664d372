"""Fields of response requests that have no effect here, as chat's neutral.py has those of chat requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.gateway.http.chat.neutral import without

# Field → its neutral values beside null.
NEUTRAL: dict[str, tuple[object, ...]] = {
    # OpenAI
    "access_programs": (),
    "audio": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "modalities": (["text"],),
    "moderation": (),
    "prompt": (),
    "service_tier": ("auto", "default"),
    # vLLM
    "enable_response_messages": (False,),
    "include_stop_str_in_output": (False,),
    "previous_input_messages": (),
    "priority": (0,),
    "skip_special_tokens": (True,),
}

# They change nothing at any value. max_tool_calls bounds calls of hosted tools, and there are none.
IGNORED = frozenset({"max_tool_calls", "prompt_cache_options", "prompt_cache_retention", "request_id"})


def without_neutral(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the fields without those of this module. Raise PydanticCustomError where one asks for something."""
    return without(fields, NEUTRAL, IGNORED)
