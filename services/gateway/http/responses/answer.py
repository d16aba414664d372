"""A response: the object that the API gives, as far as the request and the turn's events have made it.

Pure: no clock, no socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.common.errors import AntiphonError, BadInput
from services.gateway.http.chat.usage import antiphon_fields, is_cut, usage_object
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.responses.tools import choice_object, format_object, tool_object
from services.gateway.turn.events import TurnDone, Usage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """The form of the response that the client asked for."""

    # Hexadecimal digits: the part of the response's id and of its items' that is the same.
    digits: str
    created_unix_s: int
    # What the response repeats of the request.
    asked: Json = field(default_factory=dict[str, Any])
    model: str = ""
    # Tools that the answer may call.
    tool_names: frozenset[str] = frozenset()
    logprobs: bool = False

    @property
    def id(self) -> str:
        return f"resp_{self.digits}"

    def item_id(self, kind: str, index: int) -> str:
        """Return the id of the output item at `index`; kind: "msg", "fc" or "rs". It tells the response's id: see
        history.py."""
        return f"{kind}_{self.digits}{index:04x}"


def asked_fields(request: ResponseRequest) -> Json:
    """Return the fields of a response that repeat the request."""
    preset = request.antiphon_preset
    return {
        **({"antiphon_preset": preset.model_dump(exclude_none=True)} if preset is not None else {}),
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.is_kept,
        "temperature": request.temperature,
        "text": {"format": format_object(request.response_format), "verbosity": "medium"},
        "tool_choice": choice_object(request.tool_choice),
        "tools": [tool_object(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }


def response_object(form: ResponseForm, output: list[Json], status: str = "in_progress", **ended: Any) -> Json:
    """Return the response. `ended`: what its end adds."""
    return {
        "id": form.id,
        "object": "response",
        "created_at": form.created_unix_s,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": form.model,
        "output": output,
        "usage": None,
        **form.asked,
        **ended,
    }


def ended_response(form: ResponseForm, output: list[Json], done: TurnDone, now_unix_s: float) -> Json:
    """Return the response of a turn that came to its end. A limit may have cut it."""
    ended: Json = {"usage": response_usage(done.usage), **antiphon_fields(done)}
    if is_cut(done):
        details = {"reason": "max_output_tokens"}
        return response_object(form, output, "incomplete", incomplete_details=details, **ended)
    return response_object(form, output, "completed", completed_at=int(now_unix_s), **ended)


def failed_response(form: ResponseForm, output: list[Json], error: AntiphonError) -> Json:
    return response_object(form, output, "failed", error={"code": _error_code(error), "message": error.message})


def _error_code(error: AntiphonError) -> str:
    """Return one of the codes that the API has for responses that failed."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, BadInput) else "server_error"


def response_usage(usage: Usage) -> Json:
    """Return the usage as the Responses API names it: chat's numbers."""
    chat = usage_object(usage)
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {**chat["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": chat["completion_tokens_details"],
        "total_tokens": chat["total_tokens"],
    }
