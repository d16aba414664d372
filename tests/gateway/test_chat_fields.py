"""Whatever value a field of a chat request has, it is served or refused."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadInput
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import messages_from, sampling_from, speech_from
from services.gateway.http.json_body import parse_json
from services.gateway.inline_media import InlineMedia
from tests.gateway.test_chat_request import PNG

FULL: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}, "min_pixels": 4},
                {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
                {"type": "video_url", "video_url": {"url": "https://example.org/v.mp4"}, "fps": 2.0},
                {"type": "video", "video": ["https://example.org/1.png"]},
            ],
        },
        {"role": "assistant", "content": "a"},
    ],
    "modalities": ["text", "audio"],
    "audio": {"voice": "ethan", "format": "wav"},
    "talker": {"top_k": 5, "seed": 1, "max_frames": 2, "temperature": 0.5},
    "mm_processor_kwargs": {"use_audio_in_video": True},
    "temperature": 0.5,
    "top_k": 5,
    "seed": 1,
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "max_tokens": 5,
    "stream": True,
    "stream_options": {"include_usage": True},
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of each nested value."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    inner = [place for key in keys if isinstance(value[key], dict | list) for place in places(value[key])]
    return [(value, key) for key in keys] + inner


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_a_field_is_served_or_refused(data: st.DataObject) -> None:
    body = copy.deepcopy(FULL)
    container, key = data.draw(st.sampled_from(places(body)))
    container[key] = data.draw(JSON_VALUES)
    with contextlib.suppress(BadInput):
        chat = parse_json(json.dumps(body).encode(), ChatRequest)
        messages_from(chat, InlineMedia(1000))
        sampling_from(chat)
        speech_from(chat)
