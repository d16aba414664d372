"""The functions that a response may call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.common.errors import BadInput
from services.gateway.http.chat.contradictions import in_tools
from services.gateway.http.chat.structure.schema import ResponseFormat, StructuredOutputs
from services.gateway.http.chat.structure.translate import AskedForm, FormNames, asked_form
from services.gateway.http.chat.tools.schema import Tool, ToolChoice

# A tool is kept as the client wrote it, as its parts, and as the text that the model reads.
_TEXTS = 4


@dataclass(frozen=True, slots=True)
class Tools:
    """`choice` and `parallel_tool_calls` have the meaning that they have in chat requests."""

    tools: Sequence[Tool] = ()
    choice: ToolChoice = "auto"
    parallel_tool_calls: bool | None = None
    # What the stages are asked.
    form: AskedForm = field(default_factory=AskedForm)
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """See AsksForm."""

    tools: Sequence[Tool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def may_call_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"


def checked_tools(
    tools: Sequence[Tool], choice: ToolChoice, parallel_tool_calls: bool | None, names: FormNames
) -> Tools:
    """Return the tools with their form. Raise BadInput where they contradict each other, or a schema is none.

    It takes some milliseconds for large schemas: call it off the event loop.
    """
    for param, problem in in_tools(tools, choice):
        raise BadInput(problem, param=param)
    form = asked_form(_Asked(tools, choice, parallel_tool_calls), names)
    size_bytes = _TEXTS * sum(len(json.dumps(tool.written)) for tool in tools)
    return Tools(tools, choice, parallel_tool_calls, form, size_bytes)
