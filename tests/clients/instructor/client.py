"""instructor in its modes of OpenAI: TOOLS, JSON_SCHEMA, JSON and MD_JSON, whole and streamed, with its own retries."""

from __future__ import annotations

import instructor
from conversations import KEY, MODEL, REPORT, URL, hold
from openai import OpenAI
from pydantic import BaseModel

OSLO = {"city": "Oslo", "rain": True}
CALL = 'call Report {"city": "Oslo", "rain": true}'


class Report(BaseModel):
    """A report of the weather."""

    city: str
    rain: bool


def _client(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(OpenAI(base_url=URL, api_key=KEY), mode=mode)


def _report(mode: instructor.Mode, text: str) -> dict:
    client = _client(mode)
    report = client.chat.completions.create(
        model=MODEL, response_model=Report, messages=[{"role": "user", "content": text}], max_retries=0
    )
    return report.model_dump()


def tools() -> None:
    assert _report(instructor.Mode.TOOLS, CALL) == OSLO
    assert _report(instructor.Mode.TOOLS_STRICT, CALL) == OSLO


def json_schema() -> None:
    assert _report(instructor.Mode.JSON_SCHEMA, REPORT) == OSLO


def json() -> None:
    assert _report(instructor.Mode.JSON, REPORT) == OSLO


def partial() -> None:
    called = CALL.replace("Report", "PartialReport")
    parts = _client(instructor.Mode.TOOLS).chat.completions.create_partial(
        model=MODEL, response_model=Report, messages=[{"role": "user", "content": called}]
    )
    assert [*parts][-1].model_dump() == OSLO


def several() -> None:
    text = 'call IterableReport {"tasks": [{"city": "Oslo", "rain": true}, {"city": "Rome", "rain": false}]}'
    found = _client(instructor.Mode.TOOLS).chat.completions.create_iterable(
        model=MODEL, response_model=Report, messages=[{"role": "user", "content": text}]
    )
    assert [report.city for report in found] == ["Oslo", "Rome"]


hold(globals())
