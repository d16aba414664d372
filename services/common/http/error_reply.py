"""The body of every error, as the OpenAPI documents describe it; errors.py writes it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Problem(BaseModel):
    message: str = Field(description="for people: what is wrong, and what to do")
    type: str
    param: str | None = Field(description="the field at fault, as the client wrote it")
    code: str | None = Field(description="stable, for programs")


class ErrorReply(BaseModel):
    error: Problem
