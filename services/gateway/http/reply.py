"""What the answers of several endpoints have in common, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.common.derailments import Derailment
from services.common.limit_kinds import LimitKind


def maybe(description: str | None = None) -> Any:
    """Return a field that is absent where it has nothing to say: it is never null."""
    return Field(default=None, description=description, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class Reply(BaseModel):
    """Part of an answer. Names that are pydantic's own may be fields."""

    model_config = ConfigDict(protected_namespaces=())


class Ended(Reply):
    """How an answer ended, where a limit cut it."""

    finish_reason: Literal["length"] = maybe("there where a limit cut it")
    antiphon_limit: LimitKind = maybe("the limit of the key, its project or organisation that cut it")


class Spoken(Reply):
    """How speech that did not follow its text was mended or ended."""

    antiphon_derailment: Derailment = maybe(
        "why the speech no longer followed its text and was ended at its last good frame; `cut`: it ended too early"
    )
    antiphon_spoken_again: int = maybe("how often it was spoken again from its last good frame")


class TextAndAudioTokens(Reply):
    text_tokens: int
    audio_tokens: int


class TokensUsage(Reply):
    """Of the audio endpoints."""

    type: Literal["tokens"]
    input_tokens: int
    input_token_details: TextAndAudioTokens
    output_tokens: int = Field(description="a token of speech is one codec frame, 80 ms")
    total_tokens: int
