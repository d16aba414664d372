"""From a request's Structure to vLLM's parameters.

JSON becomes one of xgrammar's structural tags, not vLLM's own `json`: only there can the white space be bounded. A
model may go on with spaces for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams, check_json_nesting
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

from antiphon.v1 import thinker_pb2
from services.common.errors import BadInput
from services.thinker.structured.string_lengths import with_lengths_as_patterns

MAX_BYTES = 128 * 1024
MAX_CHOICES = 1024
MAX_TOOLS = 128
# Indentation of pretty-printed JSON is white space, too.
MAX_WHITESPACE = 32
BEGIN_CALL, END_CALL = "<tool_call>", "</tool_call>"


def structured_outputs(structure: thinker_pb2.Structure) -> StructuredOutputsParams:
    """Return the parameters. Raise BadInput, which names the structure's path, for what is empty, too large or not
    supported; what the grammar's compiler refuses is found by structured.trials."""
    path = structure.path or "structure"
    if structure.ByteSize() > MAX_BYTES:
        raise BadInput(f"Invalid '{path}': it is larger than {MAX_BYTES} bytes. Send a smaller one.", param=path)
    match structure.WhichOneof("form"):
        case "json_schema":
            return _tag(_json(_schema(structure.json_schema, path)))
        case "json_object":
            return _tag(_json({"type": "object"}))
        case "regex":
            return _regex(structure.regex, path)
        case "choices":
            return _choices(structure.choices, path)
        case "grammar":
            if not structure.grammar.strip():
                raise BadInput(f"Invalid '{path}': the grammar is empty.", param=path)
            return StructuredOutputsParams(grammar=structure.grammar)
        case "tool_calls":
            return _tag(_tool_calls(structure.tool_calls, path))
        case _:
            raise BadInput(f"Invalid '{path}': this thinker does not know the form.", param=path)


def _tag(form: Mapping[str, Any]) -> StructuredOutputsParams:
    return StructuredOutputsParams(structural_tag=json.dumps({"type": "structural_tag", "format": form}))


def _json(schema: bool | dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": MAX_WHITESPACE}


def _schema(text: str, path: str) -> dict[str, Any]:
    """Parse a JSON Schema. Raise BadInput where it is none, or where xgrammar would ignore a part of it."""
    try:
        check_json_nesting(text)
        schema = json.loads(text)
    except (ValueError, RecursionError, VLLMValidationError):
        raise BadInput(
            f"Invalid '{path}': it is not JSON, or nested deeper than 64 levels. Send a JSON Schema.", param=path
        ) from None
    if not isinstance(schema, dict):
        raise BadInput(f"Invalid '{path}': it is not an object. Send a JSON Schema.", param=path)
    if has_xgrammar_unsupported_json_features(schema) or _refers_elsewhere(schema):
        raise BadInput(
            f"Invalid '{path}': it uses what cannot be enforced: multipleOf, uniqueItems, contains, an unknown format, "
            "pattern or format with minLength or maxLength, patternProperties or propertyNames beside other "
            "properties, allOf of several schemas, or a $ref to another document. Leave it out.",
            param=path,
            code="unsupported_schema",
        )
    return with_lengths_as_patterns(schema)


def _refers_elsewhere(value: Any) -> bool:
    """Return whether a $ref leaves the schema. xgrammar would let anything stand there."""
    if isinstance(value, dict):
        ref = value.get("$ref")
        return (isinstance(ref, str) and not ref.startswith("#")) or any(map(_refers_elsewhere, value.values()))
    return isinstance(value, list) and any(map(_refers_elsewhere, value))


def _regex(pattern: str, path: str) -> StructuredOutputsParams:
    if not pattern or "\0" in pattern:
        raise BadInput(f"Invalid '{path}': the pattern is empty or holds a NUL character.", param=path)
    return StructuredOutputsParams(regex=pattern)


def _choices(choices: thinker_pb2.Choices, path: str) -> StructuredOutputsParams:
    if not 0 < len(choices.texts) <= MAX_CHOICES or not all(choices.texts):
        raise BadInput(f"Invalid '{path}': send 1 to {MAX_CHOICES} texts, none of them empty.", param=path)
    return StructuredOutputsParams(choice=list(choices.texts))


def _tool_calls(calls: thinker_pb2.ToolCalls, path: str) -> dict[str, Any]:
    if not 0 < len(calls.tools) <= MAX_TOOLS:
        raise BadInput(f"Invalid '{path}': send 1 to {MAX_TOOLS} tools.", param=path)
    tags = [_tool_tag(tool, path) for tool in calls.tools]
    if calls.required or calls.or_json_schema:
        only_calls = {
            "type": "tags_with_separator",
            "tags": tags,
            "separator": "\n",
            "at_least_one": True,
            "stop_after_first": calls.at_most_one,
        }
        if calls.required:
            return only_calls
        return {"type": "or", "elements": [_json(_schema(calls.or_json_schema, path)), only_calls]}
    return {
        "type": "triggered_tags",
        "tags": tags,
        "triggers": [BEGIN_CALL],
        "at_least_one": False,
        "stop_after_first": calls.at_most_one,
    }


def _tool_tag(tool: thinker_pb2.ToolSignature, path: str) -> dict[str, Any]:
    """Return the form of a call, as the chat template asks the model for it."""
    schema = {"type": "object", **(_schema(tool.parameters_schema, path) if tool.parameters_schema else {})}
    return {
        "type": "tag",
        "begin": f'{BEGIN_CALL}\n{{"name": {json.dumps(tool.name)}, "arguments": ',
        "content": _json(schema),
        "end": f"}}\n{END_CALL}",
    }
