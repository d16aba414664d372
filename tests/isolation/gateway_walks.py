"""What Bob may try at the operations of turns, responses and models, and at those that need no key, and what comes of
it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.gateway.conftest import CAPTIONER, INSTRUCT
from tests.gateway.requests import NO_RESPONSE, REQUESTS, Asked, ask, kept_response
from tests.isolation.engine_internals import ENGINE_INTERNALS
from tests.isolation.world import ALICES_MODEL, ALICES_WORDS, World, check_indistinguishable, naming, told, told_flat


async def turn(world: World, name: str) -> None:
    """Models that are not his stay unknown, his requests are his own whatever he sends, and nothing of him reaches the
    engines but what the API has."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told(world, asked.of_model(model)))
    await _check_whose(world, asked.of_model(CAPTIONER.name if name == "createCaption" else INSTRUCT.name))
    await _check_internals(world, asked)


async def native_turn(world: World, name: str) -> None:
    """As `turn`, in DashScope's form: its errors name a field in their message alone."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told_flat(world, asked.of_model(model)))
    await _check_whose(world, asked.of_model(INSTRUCT.name))
    with world.new_calls() as calls:
        for field, value in ENGINE_INTERNALS.items():
            for given, path in (({field: value}, field), ({"parameters": {field: value}}, f"parameters.{field}")):
                answer = await ask(
                    world.gateway, replace(asked, body={"json": {**asked.body["json"], **given}}), world.bob.secret
                )
                assert answer.status_code == 400, answer.text
                assert f"'{path}'" in answer.json()["message"], answer.text
    assert not calls


async def _check_whose(world: World, asked: Asked) -> None:
    for tenant in (world.alice, world.bob):
        with world.new_calls() as calls:
            answer = await ask(world.gateway, asked, tenant.secret, **naming(world.alice))
        assert answer.status_code == 200
        # Workers keep prefixes, media and features by it.
        assert {call.context.tenant for call in calls} == {tenant.name}
        assert answer.headers["x-request-id"] not in world.marks
        if tenant is world.alice:
            tenant.things |= {answer.headers["x-request-id"], *(call.context.request_id for call in calls)}
        else:
            world.check_hidden(answer.text + str(answer.headers))


async def _check_internals(world: World, asked: Asked) -> None:
    where = asked.model
    with world.new_calls() as calls:
        for field, value in ENGINE_INTERNALS.items():
            given = value if where == "json" else str(value)
            body = {**asked.body, where: {**asked.body.get(where, {}), field: given}}
            answer = await ask(world.gateway, replace(asked, body=body), world.bob.secret)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, field), answer.text
            assert error["code"] in ("unknown_parameter", "unsupported_parameter")
    assert not calls


async def responses(world: World, name: str) -> None:
    """A turn that can go on from no response of another tenant, and refer to no item of it."""
    await turn(world, name)
    asked = REQUESTS[name]

    def more(**fields: Any) -> Asked:
        return replace(asked, body={"json": {**asked.body["json"], **fields}})

    hers = await _alices_response(world)
    going_on = more(previous_response_id=hers, input="and then?")
    item = (await ask(world.gateway, going_on, world.alice.secret)).json()["output"][0]["id"]
    world.alice.things.add(item)
    with world.new_calls() as calls:
        await check_indistinguishable(world, lambda id: told(world, more(previous_response_id=id)), (hers, NO_RESPONSE))
        for given in ({}, {"type": "item_reference"}):
            await check_indistinguishable(
                world, lambda id, given=given: told(world, more(input=[{**given, "id": id}])), (item, f"msg_{'0' * 36}")
            )
    assert not calls


async def response(world: World, name: str) -> None:
    """Alice's response is to Bob as none, and stays hers whatever he asks."""
    hers, asked = await _alices_response(world), REQUESTS[name]
    await check_indistinguishable(world, lambda id: told(world, asked.of(id)), (hers, NO_RESPONSE))
    kept = await ask(world.gateway, REQUESTS["getResponse"].of(hers), world.alice.secret)
    assert kept.json()["id"] == hers
    allowed = await ask(world.gateway, asked.of(hers), world.alice.secret)
    assert allowed.status_code == (400 if name == "cancelResponse" else 200), allowed.text


async def _alices_response(world: World) -> str:
    id = await kept_response(world.gateway, world.alice.secret, ALICES_WORDS)
    world.alice.things.add(id)
    return id


async def models(world: World, name: str) -> None:
    hers = await ask(world.gateway, REQUESTS[name], world.alice.secret)
    shown = {model["id"]: model for model in hers.json()["data"]}
    assert shown[ALICES_MODEL.name]["voices"] == list(ALICES_MODEL.voices)
    assert shown[INSTRUCT.name]["voices"] == list(INSTRUCT.voices)
    his = await ask(world.gateway, REQUESTS[name], world.bob.secret)
    assert {model["id"]: model.get("voices") for model in his.json()["data"]} == {
        INSTRUCT.name: ["ethan"],
        CAPTIONER.name: None,
    }
    world.check_hidden(his.text)


async def model(world: World, name: str) -> None:
    asked = REQUESTS[name]
    assert (await ask(world.gateway, asked.of_model(ALICES_MODEL.name), world.alice.secret)).status_code == 200
    await check_indistinguishable(world, lambda model: told(world, asked.of_model(model)))
    his = (await ask(world.gateway, asked, world.bob.secret)).json()
    assert (his["voices"], his["default_voice"]) == (["ethan"], "ethan")


async def same_for_all(world: World, name: str) -> None:
    """It tells Bob what it tells everyone, and names nothing of a tenant."""
    answers = [
        await ask(world.gateway, REQUESTS[name], secret) for secret in (world.alice.secret, world.bob.secret, "")
    ]
    assert len({answer.text for answer in answers}) == 1
    for answer in answers:
        world.check_hidden(answer.text)
        assert world.bob.name not in answer.text
