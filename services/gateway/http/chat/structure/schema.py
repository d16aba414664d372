"""The fields of a chat request that give its answer a form: OpenAI's response_format and vLLM's structured_outputs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from services.gateway.http.chat.parts import Strict

MAX_PATTERN_CHARS = 16 * 1024
MAX_GRAMMAR_CHARS = 64 * 1024
MAX_CHOICES = 1024


class PlainText(Strict):
    type: Literal["text"]


class AnyJson(Strict):
    type: Literal["json_object"]


class NamedSchema(Strict):
    name: Annotated[str, Field(max_length=256)] | None = None
    description: str | None = None
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    # Every schema is enforced.
    strict: bool | None = None


class SchemaJson(Strict):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainText | AnyJson | SchemaJson, Field(discriminator="type")]


class StructuredOutputs(Strict):
    """One of these; which of them, schema.py checks."""

    # A JSON Schema, or its text.
    json_schema: Annotated[dict[str, Any] | str | None, Field(alias="json", union_mode="left_to_right")] = None
    json_object: Literal[True] | None = None
    regex: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARS)] | None = None
    choice: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)] | None = (
        None
    )
    grammar: Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)] | None = None

    @property
    def forms(self) -> list[str]:
        """The names of the forms that are given."""
        given = {
            "json": self.json_schema,
            "json_object": self.json_object,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
        }
        return [name for name, value in given.items() if value is not None]
