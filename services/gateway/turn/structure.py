"""The form that an answer must have. The thinker samples no token that breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """JSON that the schema accepts. `schema` is its text."""

    schema: str


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that the pattern matches, whole."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these texts."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Text of a grammar: xgrammar's EBNF, or Lark."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolSignature:
    name: str
    # The JSON Schema of its arguments, as text; "" = any object.
    parameters_schema: str = ""


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Calls of tools. `required`: one or more and nothing else; otherwise text in which calls may stand, or calls or
    JSON."""

    tools: Sequence[ToolSignature]
    required: bool
    # The answer ends after the first call.
    at_most_one: bool
    # The JSON Schema, as text, of an answer that is no call; "" = it may be any text.
    or_schema: str = ""


StructureForm = JsonSchema | JsonObject | Regex | Choices | Grammar | ToolCalls


@dataclass(frozen=True, slots=True)
class Structure:
    # Where the client wrote it, for errors.
    path: str
    form: StructureForm
