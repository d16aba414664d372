"""Events and responses, checked against the types of openai's SDK, and events against those of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from services.gateway.http.responses.event_reply import EVENTS

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_DESCRIBED: dict[str, type[BaseModel]] = {
    name: model for model in EVENTS for name in get_args(model.model_fields["type"].annotation)
}


def checked(events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return the events of a response. Assert that each is what the SDK's type of its name says and as documented, and
    that they are in order and complete."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        assert _DESCRIBED[event["type"]].model_validate(event)
        parsed = _EVENTS.validate_python(event)
        assert parsed.type == event["type"]
        known = type(parsed).model_fields
        assert set(event) - {"name", "error"} <= {field.alias or name for name, field in known.items()}
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    _check_items(events)
    return events


def _check_items(events: Sequence[dict[str, Any]]) -> None:
    """Assert that items and parts open before and close after what is in them, and are what their deltas add up to."""
    last = events[-1]
    output = last["response"]["output"]
    for index, item in enumerate(output):
        of_item = [event for event in events if event.get("output_index") == index]
        names = [event["type"].removeprefix("response.") for event in of_item]
        assert names[0] == "output_item.added"
        added = of_item[0]["item"]
        assert (added["id"], added["type"], added["status"]) == (item["id"], item["type"], "in_progress")
        assert all(event["item_id"] == item["id"] for event in of_item[1:] if "item_id" in event)
        if last["type"] == "response.failed":
            continue
        assert names[-1] == "output_item.done"
        assert of_item[-1]["item"] == item
        joined = "".join(event["delta"] for event in of_item if "delta" in event)
        if item["type"] == "function_call":
            assert set(names[1:-2]) <= {"function_call_arguments.delta"}
            assert (names[-2], of_item[-2]["arguments"]) == ("function_call_arguments.done", joined)
            assert item["arguments"] == joined
        else:
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            assert (names[1], names[-2]) == ("content_part.added", "content_part.done")
            assert set(names[2:-3]) <= {f"{kind}.delta"}
            assert (names[-3], of_item[-3]["text"]) == (f"{kind}.done", joined)
            (part,) = item["content"]
            assert part == of_item[-2]["part"]
            assert part["text"] == joined
    checked_response(last["response"])


def checked_response(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response. Assert that it is what the SDK's type says, its usage included."""
    parsed = Response.model_validate(response)
    assert (parsed.object, parsed.id[:5]) == ("response", "resp_")
    if parsed.status in ("completed", "incomplete"):
        assert parsed.usage is not None
        assert parsed.usage.total_tokens == parsed.usage.input_tokens + parsed.usage.output_tokens
    assert (parsed.incomplete_details is not None) == (parsed.status == "incomplete")
    assert (parsed.error is not None) == (parsed.status == "failed")
    return response
