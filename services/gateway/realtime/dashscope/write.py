"""Server events as DashScope has them. Pure: no socket.

They are those of OpenAI's beta, but for the session, the usage and the parts of an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.gateway.realtime.dashscope.translate import threshold_of
from services.gateway.realtime.openai import beta

Json = dict[str, Any]
# What OpenAI's session has and DashScope's does not.
_LEFT_OUT = ("max_response_output_tokens", "truncation")


def session_finished() -> Json:
    """Return the event that follows all that `session.finish` waited for."""
    return {"type": "session.finished"}


def events_of(events: Iterable[Json]) -> list[Json]:
    """Return OpenAI's server events in DashScope's form."""
    return [_event(event, flat) for event in events for flat in beta.events_of([event])]


def _event(event: Json, flat: Json) -> Json:
    """`flat`: the event in the beta's form."""
    shown = {**flat}
    if "error" in shown:
        shown["error"] = event["error"]  # it names DashScope's fields as it is
    if "session" in shown:
        shown["session"] = _session(event["session"], shown["session"])
    if "response" in shown:
        shown["response"] = _response(event["response"], shown["response"])
    if "item" in shown:
        shown["item"] = _item(shown["item"])
    if "part" in shown:
        shown["part"] = _part(shown["part"])
    if "usage" in shown:
        shown["usage"] = _usage(shown["usage"])
    return shown


def _session(session: Json, flat: Json) -> Json:
    audio = session["audio"]
    limit, voice_detection = session["max_output_tokens"], flat["turn_detection"]
    return {
        **{name: value for name, value in flat.items() if name not in _LEFT_OUT},
        "modalities": _modalities(session),
        "input_audio_format": _format(audio["input"])["type"],
        "output_audio_format": _format(audio["output"])["type"],
        "audio": {side: {"format": _format(audio[side])} for side in ("input", "output")},
        "turn_detection": _turn_detection(voice_detection) if voice_detection is not None else None,
        "max_tokens": limit if limit != "inf" else None,
        "tools": [{"type": "function", "function": _without_type(tool)} for tool in session["tools"]],
    }


def _response(response: Json, flat: Json) -> Json:
    limit, usage = response["max_output_tokens"], response["usage"]
    return {
        **{name: value for name, value in flat.items() if name != "max_output_tokens"},
        "modalities": _modalities(response),
        "output_audio_format": _format(response["audio"]["output"])["type"],
        "max_tokens": limit if limit != "inf" else None,
        "output": [_item(item) for item in flat["output"]],
        "usage": _usage(usage) if usage is not None else None,
    }


def _item(item: Json) -> Json:
    return {**item, "content": [_part(part) for part in item["content"]]} if "content" in item else item


def _part(part: Json) -> Json:
    """Return a part of an answer with both names of its text: DashScope's own events have now one, now the other."""
    return {**part, "text": part["transcript"]} if part["type"] == "audio" else part


def _usage(usage: Json) -> Json:
    shown = {name.replace("_token_details", "_tokens_details"): value for name, value in usage.items()}
    return {**shown, "input_tokens_details": {"video_tokens": 0, **shown["input_tokens_details"]}}


def _modalities(options: Json) -> list[str]:
    return ["text", "audio"] if options["output_modalities"] == ["audio"] else ["text"]


def _format(side: Json) -> Json:
    """Return the format of one direction's audio. G.711 is a session's that another dialect began."""
    written = side["format"]
    return {"type": written["type"].removeprefix("audio/"), "sample_rate": written.get("rate", 8000)}


def _turn_detection(detection: Json) -> Json:
    shown = {name: value for name, value in detection.items() if name not in ("eagerness", "idle_timeout_ms")}
    return {**shown, "threshold": threshold_of(shown["threshold"])} if "threshold" in shown else shown


def _without_type(tool: Json) -> Json:
    return {name: value for name, value in tool.items() if name != "type"}
