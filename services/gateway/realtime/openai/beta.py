"""The Realtime API as it was in its beta, to and from the form that became generally available. Pure: no socket.

The beta has a flat session, other names of events and parts, and no `conversation.item.done`. All else is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.common.errors import BadInput

Json = dict[str, Any]

SUBPROTOCOL = "openai-beta.realtime-v1"

# A flat field and where it is now.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "modalities": ("output_modalities",),
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "output_audio_format": ("audio", "output", "format"),
    "input_audio_format": ("audio", "input", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "max_response_output_tokens": ("max_output_tokens",),
}
_NEW_FIELDS = frozenset(path[0] for path in _PLACES.values()) | {"type"}
_FORMATS: Mapping[str, Json] = {
    "pcm16": {"type": "audio/pcm"},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
_FORMAT_NAMES = {new["type"]: name for name, new in _FORMATS.items()}
_EVENTS = {
    "conversation.item.added": "conversation.item.created",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
}
_PARTS = {"output_text": "text", "output_audio": "audio"}


# From the client


def event_from(raw: Json) -> Json:
    """Return a client event in the new form. Raise BadInput where it has fields of the new form."""
    for kind, name in (("session.update", "session"), ("response.create", "response")):
        if raw.get("type") == kind and isinstance(options := raw.get(name), Mapping):
            return {**raw, name: _nested(options, name)}
    return raw


def _nested(options: Mapping[str, Any], path: str) -> Json:
    nested: Json = {}
    for name, value in options.items():
        if name in _NEW_FIELDS:
            raise BadInput(
                f"Unknown parameter: '{path}.{name}'. The beta's fields are flat. Send them, or leave out"
                " 'OpenAI-Beta: realtime=v1'.",
                param=f"{path}.{name}",
                code="unknown_parameter",
            )
        place = nested
        *above, last = _PLACES.get(name, (name,))
        for key in above:
            place = place.setdefault(key, {})
        place[last] = _new_value(name, value)
    return nested


def _new_value(name: str, value: Any) -> Any:
    if name.endswith("_audio_format") and isinstance(value, str):
        return _FORMATS.get(value, {"type": value})
    if name == "modalities" and isinstance(value, list) and "audio" in value and len(value) == 2:
        return [one for one in value if one != "text"]  # speech comes with its text
    if name == "turn_detection" and isinstance(value, Mapping) and "type" not in value:
        return {"type": "server_vad", **value}
    return value


# To the client


def events_of(events: Iterable[Json]) -> list[Json]:
    """Return server events in the beta's form."""
    return [_event(event) for event in events if event["type"] != "conversation.item.done"]


def conversation_created(conversation_id: str) -> Json:
    """Return the event that follows `session.created`."""
    return {"type": "conversation.created", "conversation": {"id": conversation_id, "object": "realtime.conversation"}}


def _event(event: Json) -> Json:
    shown: Json = {**event, "type": _EVENTS.get(event["type"], event["type"])}
    if "item" in shown:
        shown["item"] = _item(shown["item"])
    if "session" in shown:
        shown["session"] = _flat_session(shown["session"])
    if "response" in shown:
        response = _flat(shown["response"], max_tokens="max_output_tokens")
        shown["response"] = {**response, "output": [_item(item) for item in response["output"]]}
    if "error" in shown:
        shown["error"] = _error(shown["error"])
    return shown


def _item(item: Json) -> Json:
    if "content" not in item:
        return item
    return {**item, "content": [{**part, "type": _PARTS.get(part["type"], part["type"])} for part in item["content"]]}


def _flat_session(session: Json) -> Json:
    audio = session["audio"]["input"]
    flat = _flat(session, max_tokens="max_response_output_tokens")
    del flat["type"]
    return {
        **flat,
        "input_audio_format": _FORMAT_NAMES[audio["format"]["type"]],
        "input_audio_transcription": audio.get("transcription"),
        "turn_detection": audio["turn_detection"],
    }


def _flat(options: Json, max_tokens: str) -> Json:
    """Return what a session and a response have in common with its fields flat."""
    left = {key: value for key, value in options.items() if key not in _NEW_FIELDS or key == "type"}
    output = options["audio"]["output"]
    return {
        **left,
        "modalities": ["audio", "text"] if options["output_modalities"] == ["audio"] else ["text"],
        "output_audio_format": _FORMAT_NAMES[output["format"]["type"]],
        **({"voice": output["voice"]} if "voice" in output else {}),
        max_tokens: options["max_output_tokens"],
    }


def _error(error: Json) -> Json:
    """Return the error with the names that the client knows."""
    param = error.get("param")
    if not param:
        return error
    for name, path in _PLACES.items():
        new = ".".join(path)
        for above in ("", "session.", "response."):
            if param == above + new or param.startswith((f"{above}{new}.", f"{above}{new}[")):
                rest = "" if name.endswith("_audio_format") else param[len(above + new) :]
                known = above + name + rest
                return {**error, "param": known, "message": error["message"].replace(f"'{param}'", f"'{known}'")}
    return error
