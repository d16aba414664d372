"""Structured answers of the real engine: alone and with others, greedy and sampled, whole and resumed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import jsonschema
import pytest

from antiphon.v1 import thinker_pb2
from services.common.errors import BadInput
from services.thinker.service import Thinker
from tests.thinker.collect import Collected, collect
from tests.thinker.conftest import Prepare
from tests.thinker.test_resume import PENALTIES

pytestmark = pytest.mark.asyncio(loop_scope="session")
STOP = thinker_pb2.FINISH_REASON_STOP
SEEDED = {"temperature": 1.0, "seed": 5}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "é"]}, "maxItems": 3},
        "home": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/home"}]},
    },
    "required": ["name", "age", "tags", "home"],
    "additionalProperties": False,
    "$defs": {"home": {"type": "object", "properties": {"door": {"type": "boolean"}}, "required": ["door"]}},
}
TOOLS = [
    thinker_pb2.ToolSignature(name="weather", parameters_schema=json.dumps(PERSON)),
    thinker_pb2.ToolSignature(name="door", parameters_schema=json.dumps(PERSON["$defs"]["home"])),
]
CALL = re.compile(r'<tool_call>\n\{"name": "(\w+)", "arguments": (.*?)\}\n</tool_call>', re.DOTALL)
FORMS: dict[str, dict[str, Any]] = {
    "schema": {"json_schema": json.dumps(PERSON)},
    "regex": {"regex": r"[a-f]{3,9}: (yes|no) \w{2}"},
    "choices": {"choices": thinker_pb2.Choices(texts=["yes", "no", "per\"h'aps\n"])},
    "ebnf": {"grammar": 'root ::= pair ("," pair){2}\npair ::= [a-z]{1,5} "=" [0-9]'},
    "lark": {"grammar": 'start: WORD "=" DIGIT\nWORD: /[a-z]{1,5}/\nDIGIT: /[0-9]/'},
    "calls": {"tool_calls": thinker_pb2.ToolCalls(tools=TOOLS, required=True)},
    "one call": {"tool_calls": thinker_pb2.ToolCalls(tools=TOOLS[:1], required=True, at_most_one=True)},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": SEEDED,
    "penalties": SEEDED | {"top_k": 40, "top_p": 0.9} | PENALTIES,
}


def structure(form: str) -> thinker_pb2.Structure:
    return thinker_pb2.Structure(path="the_field", **FORMS[form])


def check(form: str, text: str) -> None:
    match form:
        case "schema":
            jsonschema.validate(json.loads(text), PERSON)
        case "regex":
            assert re.fullmatch(FORMS["regex"]["regex"], text), text
        case "choices":
            assert text in FORMS["choices"]["choices"].texts
        case "ebnf":
            assert re.fullmatch("[a-z]{1,5}=[0-9](,[a-z]{1,5}=[0-9]){2}", text), text
        case "lark":
            assert re.fullmatch("[a-z]{1,5}=[0-9]", text), text
        case _:
            calls = CALL.findall(text)
            assert text == "\n".join(match[0] for match in CALL.finditer(text))
            schemas = {tool.name: json.loads(tool.parameters_schema) for tool in TOOLS}
            for name, arguments in calls:
                jsonschema.validate(json.loads(arguments), schemas[name])
            assert len(calls) == 1 if form == "one call" else calls


async def asked(thinker: Thinker, prepared: Prepare, form: str, sampling: dict[str, Any], **fields: Any) -> Collected:
    sampling = {"max_tokens": 1000, **sampling}
    request = prepared("text").request(form, sampling=sampling, structure=structure(form), **fields)
    return await collect(thinker, request)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("form", [form for form in FORMS if form != "calls"])
async def test_an_answer_has_the_form_that_was_asked_for(
    form: str, sampling: str, thinker: Thinker, prepared: Prepare
) -> None:
    got = await asked(thinker, prepared, form, SAMPLING[sampling])
    assert got.done.finish_reason == STOP
    check(form, got.content)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("form", ["schema", "regex", "one call"])
async def test_a_structured_answer_goes_on_as_if_nothing_had_happened(
    form: str, sampling: str, thinker: Thinker, prepared: Prepare
) -> None:
    fields: dict[str, Any] = {"max_tokens": 1000, **SAMPLING[sampling]}
    whole = await asked(thinker, prepared, form, fields)
    last = len(whole.token_ids) - 1
    async with asyncio.TaskGroup() as group:
        rests = {
            cut: group.create_task(
                asked(
                    *(thinker, prepared, form, fields),
                    generated_token_ids=whole.token_ids[:cut],
                    tenant=f"resumed-{cut}",
                )
            )
            for cut in sorted({1, 2, last // 3, last // 2, last - 1, last} - {0})
        }
    for cut, rest in rests.items():
        assert rest.result().token_ids == whole.token_ids[cut:], cut
        assert rest.result().done.finish_reason == STOP


async def test_structured_and_free_answers_share_a_batch(thinker: Thinker, prepared: Prepare) -> None:
    free = prepared("text").request("free", sampling={"max_tokens": 60, "ignore_eos": True, **SEEDED})
    alone = {form: await asked(thinker, prepared, form, SEEDED) for form in ("schema", "choices", "regex")}
    free_alone = await collect(thinker, free)
    async with asyncio.TaskGroup() as group:
        together = {form: group.create_task(asked(thinker, prepared, form, SEEDED)) for form in alone}
        free_together = group.create_task(collect(thinker, free))
    assert free_together.result().token_ids == free_alone.token_ids
    for form, task in together.items():
        assert task.result().token_ids == alone[form].token_ids


async def test_only_calls_of_the_named_tools_may_stand_in_a_free_text(thinker: Thinker, prepared: Prepare) -> None:
    """The token of a call is made likely; without the structure, nonsense would follow it."""
    begin = thinker.checkpoint.card.tool_call_token_id
    calls = thinker_pb2.ToolCalls(tools=TOOLS, required=False, at_most_one=True)
    request = prepared("text").request(
        "auto",
        sampling={"max_tokens": 1500, "logit_bias": {begin: 12.0}, **SEEDED},
        structure=thinker_pb2.Structure(tool_calls=calls),
    )
    got = await collect(thinker, request)
    at = got.content.index("<tool_call>")
    check("one call", got.content[at:])
    assert got.token_ids.count(begin) == 1


@pytest.mark.parametrize("bias", [-12.0, 12.0])
async def test_an_answer_may_be_calls_or_json(bias: float, thinker: Thinker, prepared: Prepare) -> None:
    calls = thinker_pb2.ToolCalls(tools=TOOLS[:1], at_most_one=True, or_json_schema=json.dumps(PERSON))
    request = prepared("text").request(
        "either",
        sampling={"max_tokens": 1000, "logit_bias": {thinker.checkpoint.card.tool_call_token_id: bias}, **SEEDED},
        structure=thinker_pb2.Structure(tool_calls=calls),
    )
    got = await collect(thinker, request)
    check("one call" if got.content.startswith("<tool_call>") else "schema", got.content)


BOMBS: dict[str, dict[str, Any]] = {
    "repetitions": {"regex": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}b"},
    "brackets": {"regex": "(" * 8000 + "a" + ")" * 8000},
    "alternatives": {"regex": "(" + "|".join(f"[^{n}]{{1,{n}}}.*{n}" for n in range(1000, 2200)) + ")+x"},
    "references": {
        "json_schema": json.dumps(
            {
                "$ref": "#/$defs/d0",
                "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 20} for n in range(40)}
                | {"d40": {"type": "object"}},
            }
        )
    },
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_hostile_grammar_is_refused_or_harmless(bomb: str, thinker: Thinker, prepared: Prepare) -> None:
    hostile = prepared("text").request(
        "hostile",
        sampling={"max_tokens": 8},
        structure=thinker_pb2.Structure(path="the_field", **BOMBS[bomb]),
    )
    with contextlib.suppress(BadInput):
        await collect(thinker, hostile)
    got = await asked(thinker, prepared, "choices", SEEDED)
    check("choices", got.content)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"regex": "a("}, "invalid_value"),
        ({"regex": "a\0"}, "invalid_value"),
        ({"grammar": "root ::= nothing"}, "invalid_value"),
        ({"grammar": " "}, "invalid_value"),
        ({"json_schema": "{"}, "invalid_value"),
        ({"json_schema": "[]"}, "invalid_value"),
        ({"json_schema": '{"$ref": "#/nowhere"}'}, "invalid_value"),
        ({"json_schema": '{"type": "array", "uniqueItems": true}'}, "unsupported_schema"),
        ({"json_schema": '{"items": {"$ref": "https://e.org/s"}}'}, "unsupported_schema"),
        ({"json_schema": '{"a":' * 70 + "{}" + "}" * 70}, "invalid_value"),
        ({"regex": "a" * 200_000}, "invalid_value"),
        ({"choices": thinker_pb2.Choices()}, "invalid_value"),
        ({"tool_calls": thinker_pb2.ToolCalls()}, "invalid_value"),
        ({}, "invalid_value"),
    ],
)
async def test_a_wrong_structure_is_refused_by_its_path(
    form: dict[str, Any], code: str, thinker: Thinker, prepared: Prepare
) -> None:
    request = prepared("text").request("wrong", structure=thinker_pb2.Structure(path="the_field", **form))
    with pytest.raises(BadInput) as caught:
        await collect(thinker, request)
    assert (caught.value.param, caught.value.code) == ("the_field", code)


@pytest.mark.parametrize("sampling", [{"min_tokens": 2}, {"ignore_eos": True}, {"stop_token_ids": [5]}])
async def test_nothing_else_may_end_a_structured_answer(
    sampling: dict[str, Any], thinker: Thinker, prepared: Prepare
) -> None:
    with pytest.raises(BadInput) as caught:
        await asked(thinker, prepared, "regex", sampling)
    assert caught.value.param == next(iter(sampling))
