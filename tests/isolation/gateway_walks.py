"""What Bob may try at each operation of the gateway's HTTP API, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from services.gateway.http.chat.neutral import ENGINE_FIELDS
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import CAPTIONER, INSTRUCT, RunningGateway
from tests.gateway.requests import (
    NO_BATCH,
    NO_CALL,
    NO_FILE,
    NO_RESPONSE,
    REQUESTS,
    Asked,
    ask,
    kept_response,
    made_batch,
    made_call,
    uploaded_file,
)
from tests.isolation.world import ALICES_MODEL, ALICES_WORDS, NO_MODEL, Tenant, World, check_indistinguishable, told

HIDDEN = "what-no-engine-may-read"
ENGINE_INTERNALS: Mapping[str, Any] = {
    **dict.fromkeys(ENGINE_FIELDS, HIDDEN),
    "kv_transfer_params": {"remote": HIDDEN},
    "priority": 5,
    "tenant": "alice-corp.alice-prod",
    "vllm_xargs": {"a": HIDDEN},
}
NAMING_HEADERS = ("x-tenant", "x-antiphon-tenant", "x-project", "openai-project", "openai-organization")


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


async def told_flat(world: World, asked: Asked) -> str:
    answer = await ask(world.gateway, asked, world.bob.secret)
    error = answer.json()
    assert error.pop("request_id") == answer.headers["x-request-id"]
    return f"{answer.status_code} {json.dumps(error, sort_keys=True)}"


async def _check_whose(world: World, asked: Asked) -> None:
    for tenant in (world.alice, world.bob):
        with world.new_calls() as calls:
            answer = await ask(world.gateway, asked, tenant.secret, **_naming(world.alice))
        assert answer.status_code == 200
        # Workers keep prefixes, media and features by it.
        assert {call.context.tenant for call in calls} == {tenant.name}
        assert answer.headers["x-request-id"] not in world.marks
        if tenant is world.alice:
            tenant.things |= {answer.headers["x-request-id"], *(call.context.request_id for call in calls)}
        else:
            world.check_hidden(answer.text + str(answer.headers))


def _naming(tenant: Tenant) -> dict[str, str]:
    return {**dict.fromkeys(NAMING_HEADERS, tenant.name), "x-request-id": next(iter(tenant.things), "req_1")}


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


async def upload(world: World, name: str) -> None:
    """His files are his own, whatever he sends."""
    for tenant in (world.alice, world.bob):
        answer = await ask(world.gateway, REQUESTS[name], tenant.secret, **_naming(world.alice))
        assert answer.status_code == 200, answer.text
        if tenant is world.alice:
            tenant.things.add(answer.json()["id"])
        else:
            world.check_hidden(answer.text + str(answer.headers))


async def file(world: World, name: str) -> None:
    """Alice's file is to Bob as none, and stays hers whatever he asks."""
    hers, asked = await _alices(world, uploaded_file), REQUESTS[name]
    await check_indistinguishable(world, lambda id: told(world, asked.of(id)), (hers, NO_FILE))
    assert (await ask(world.gateway, asked.of(hers), world.alice.secret)).status_code == 200


async def new_batch(world: World, name: str) -> None:
    """Bob makes no batch of Alice's file. A batch of hers runs as hers."""
    hers, asked = await _alices(world, uploaded_file), REQUESTS[name]
    await check_indistinguishable(world, lambda id: told(world, asked.of_file(id)), (hers, NO_FILE))
    for tenant in (world.alice, world.bob):
        with world.new_calls() as calls:
            id = await made_batch(world.gateway, tenant.secret)
            await wait_until(lambda tenant=tenant, id=id: _is_over(world, tenant, id))
        assert {call.context.tenant for call in calls} == {tenant.name}
        if tenant is world.alice:
            tenant.things |= {id, *(call.context.request_id for call in calls)}


async def batch(world: World, name: str) -> None:
    """Alice's batch is to Bob as none, and stays as it is whatever he asks."""
    hers, asked = await _alices(world, made_batch), REQUESTS[name]
    await check_indistinguishable(world, lambda id: told(world, asked.of(id)), (hers, NO_BATCH))
    shown = await ask(world.gateway, REQUESTS["getBatch"].of(hers), world.alice.secret)
    assert shown.json()["cancelling_at"] is None
    assert (await ask(world.gateway, asked.of(hers), world.alice.secret)).status_code in (200, 409)
    await wait_until(lambda: _is_over(world, world.alice, hers))  # else it would run in another walk


async def listed(world: World, name: str) -> None:
    """Neither sees what is the other's, nor may begin a page behind it."""
    hers = await _alices(world, uploaded_file if name == "listFiles" else made_batch)
    nobodys = NO_FILE if name == "listFiles" else NO_BATCH
    shown = await ask(world.gateway, REQUESTS[name], world.alice.secret)
    assert hers in {each["id"] for each in shown.json()["data"]}
    his = await ask(world.gateway, REQUESTS[name], world.bob.secret)
    world.check_hidden(his.text)
    for id in (hers, nobodys):
        page = await ask(
            world.gateway, replace(REQUESTS[name], path=f"{REQUESTS[name].path}?after={id}"), world.bob.secret
        )
        world.check_hidden(page.text)


async def _alices(world: World, make: Callable[[RunningGateway, str], Awaitable[str]]) -> str:
    id = await make(world.gateway, world.alice.secret)
    world.alice.things.add(id)
    return id


async def _is_over(world: World, tenant: Tenant, id: str) -> bool:
    answer = await ask(world.gateway, REQUESTS["getBatch"].of(id), tenant.secret)
    return answer.json()["status"] in ("completed", "cancelled")


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


async def client_secret(world: World, name: str) -> None:
    """A secret of his is his key's, whatever model he names, and hers tells him nothing of her."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told(world, asked.of_model(model)))
    for tenant in (world.alice, world.bob):
        made = await ask(world.gateway, replace(asked, body={"json": {"scope": "chat"}}), tenant.secret)
        secret = made.json()["value"]
        with world.new_calls() as calls:
            answer = await ask(world.gateway, REQUESTS["createChatCompletion"], secret, **_naming(world.alice))
        assert answer.status_code == 200
        assert {call.context.tenant for call in calls} == {tenant.name}
        if tenant is world.alice:
            tenant.things |= {secret, answer.headers["x-request-id"], *(call.context.request_id for call in calls)}
        else:
            world.check_hidden(made.text + answer.text + str(answer.headers))


async def same_for_all(world: World, name: str) -> None:
    """It tells Bob what it tells everyone, and names nothing of a tenant."""
    answers = [
        await ask(world.gateway, REQUESTS[name], secret) for secret in (world.alice.secret, world.bob.secret, "")
    ]
    assert len({answer.text for answer in answers}) == 1
    for answer in answers:
        world.check_hidden(answer.text)
        assert world.bob.name not in answer.text


async def realtime(world: World, name: str) -> None:
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told(world, asked.of_model(model)))
    words = {"type": "input_text", "text": ALICES_WORDS}
    written = {"type": "message", "role": "user", "content": [words]}
    async with _opened(world, world.alice) as hers, _opened(world, world.bob) as his:
        session = (await _next(hers, "session.created"))["session"]
        await _send(hers, "conversation.item.create", item=written)
        item = (await _next(hers, "conversation.item.done"))["item"]
        with world.new_calls() as calls:
            await _send(hers, "response.create", response={"output_modalities": ["text"]})
            response = (await _next(hers, "response.done"))["response"]
        assert {call.context.tenant for call in calls} == {world.alice.name}
        world.alice.things |= {session["id"], item["id"], response["id"]}
        created = await _next(his, "session.created")
        world.check_hidden(json.dumps(created))
        for kind, of in (
            ("conversation.item.retrieve", lambda id: {"item_id": id}),
            ("conversation.item.delete", lambda id: {"item_id": id}),
            ("conversation.item.truncate", lambda id: {"item_id": id, "content_index": 0, "audio_end_ms": 0}),
            ("response.create", lambda id: {"response": {"input": [{"type": "item_reference", "id": id}]}}),
            ("response.cancel", lambda id: {"response_id": id}),
        ):
            for id in (item["id"], response["id"]):
                assert await _refusal(his, kind, **of(id)) == await _refusal(his, kind, **of("x" * len(id))), kind
        for field, value in ENGINE_INTERNALS.items():
            refusal = await _refusal(his, "session.update", session={"type": "realtime", field: value})
            assert f"'session.{field}'" in refusal, refusal
            refusal = await _refusal(his, "response.create", response={field: value})
            assert f"'response.{field}'" in refusal, refusal
        update = {"type": "realtime", "audio": {"output": {"voice": ALICES_MODEL.default_voice}}}
        theirs = await _refusal(his, "session.update", session=update)
        update = {"type": "realtime", "audio": {"output": {"voice": NO_MODEL}}}
        nobodys = await _refusal(his, "session.update", session=update)
        assert theirs.replace(ALICES_MODEL.default_voice, "…") == nobodys.replace(NO_MODEL, "…")
        with world.new_calls() as calls:
            await _send(his, "response.create", response={"output_modalities": ["text"], "input": [written]})
            await _next(his, "response.done")
        assert {call.context.tenant for call in calls} == {world.bob.name}


async def new_call(world: World, name: str) -> None:
    """As `realtime`, over another transport: the session behind it is the same."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told(world, asked.of_model(model)))
    hers = await made_call(world.gateway, world.alice.secret)
    his = await ask(world.gateway, asked, world.bob.secret, **_naming(world.alice))
    assert his.status_code == 201
    world.alice.things.add(hers)
    world.check_hidden(his.text + str(his.headers))


async def call(world: World, name: str) -> None:
    """Alice's call is to Bob as none, and goes on whatever he asks."""
    asked, hers = REQUESTS[name], await made_call(world.gateway, world.alice.secret)
    world.alice.things.add(hers)
    await check_indistinguishable(world, lambda id: told(world, asked.of(id)), (hers, NO_CALL))
    assert (await ask(world.gateway, asked.of(hers), world.alice.secret)).status_code == 200


async def live(world: World, name: str) -> None:
    """The model is named behind the upgrade. Whatever he says of hers is as of nobody's."""
    path = REQUESTS[name].path

    async def refused(**session: Any) -> str:
        async with _opened(world, world.bob, path) as his:
            return await _refusal(his, "session.start", session={"model": INSTRUCT.name, **session})

    await check_indistinguishable(world, lambda model: refused(model=model))
    voices = ALICES_MODEL.default_voice, NO_MODEL
    await check_indistinguishable(world, lambda voice: refused(audio={"output": {"voice": voice}}), voices)
    for field, value in ENGINE_INTERNALS.items():
        assert f"'session.{field}'" in await refused(**{field: value})
    for tenant in (world.alice, world.bob):
        async with _opened(world, tenant, path) as socket:
            await _send(socket, "session.start", session={"model": INSTRUCT.name, "instructions": "Be kind."})
            started = await _next(socket, "session.started")
            for id in [thing for thing in world.alice.things if tenant is world.bob]:
                append = {"content": "Done.", "delegation_id": id[:256]}
                hers = await _refusal(socket, "session.commentary.append", **append)
                append["delegation_id"] = "x" * len(append["delegation_id"])
                nobodys = await _refusal(socket, "session.commentary.append", **append)
                assert hers.replace(id[:100], "…") == nobodys.replace("x" * len(id[:100]), "…")
            with world.new_calls() as calls:
                words = ALICES_WORDS if tenant is world.alice else "hello"
                await _send(socket, "session.commentary.append", content=words, delegation_id=None)
                used = await _next(socket, "session.usage.updated")
            assert {call.context.tenant for call in calls} == {tenant.name}
            if tenant is world.alice:
                tenant.things.add(started["session"]["id"])
            else:
                world.check_hidden(json.dumps([started, used]))


async def dashscope_realtime(world: World, name: str) -> None:
    """As `realtime`, in DashScope's dialect of it: the session behind it is the same."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told_flat(world, asked.of_model(model)))
    words = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ALICES_WORDS}]}
    async with _opened(world, world.alice, asked.path) as hers, _opened(world, world.bob, asked.path) as his:
        for tenant, socket in ((world.alice, hers), (world.bob, his)):
            session = (await _next(socket, "session.created"))["session"]
            await _send(socket, "conversation.item.create", item=words)
            item = (await _next(socket, "conversation.item.created"))["item"]
            with world.new_calls() as calls:
                await _send(socket, "response.create", response={"modalities": ["text"]})
                response = (await _next(socket, "response.done"))["response"]
            assert {call.context.tenant for call in calls} == {tenant.name}
            if tenant is world.alice:
                tenant.things |= {session["id"], item["id"], response["id"]}
            else:
                world.check_hidden(json.dumps([session, item, response]), ALICES_WORDS)
        hers_ids = [id for id in world.alice.things if id.startswith(("item_", "resp_"))]
        for id in hers_ids:
            for kind in ("conversation.item.retrieve", "conversation.item.delete"):
                refused = await _refusal(his, kind, item_id=id)
                assert refused == await _refusal(his, kind, item_id="x" * len(id)), kind
        for field, value in ENGINE_INTERNALS.items():
            for kind, of in (("session.update", "session"), ("response.create", "response")):
                assert f"'{of}.{field}'" in await _refusal(his, kind, **{of: {field: value}})
        theirs = await _refusal(his, "session.update", session={"voice": ALICES_MODEL.default_voice})
        nobodys = await _refusal(his, "session.update", session={"voice": NO_MODEL})
        assert theirs.replace(ALICES_MODEL.default_voice, "…") == nobodys.replace(NO_MODEL, "…")


def _opened(world: World, tenant: Tenant, path: str = f"/v1/realtime?model={INSTRUCT.name}") -> connect:
    url = world.gateway.url.replace("http", "ws") + path
    headers = {"authorization": f"Bearer {tenant.secret}", "x-tenant": world.alice.name}
    return connect(url, additional_headers=headers, compression=None)


async def _send(socket: ClientConnection, kind: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": kind, "event_id": "mine", **fields}))


async def _next(socket: ClientConnection, kind: str) -> dict[str, Any]:
    while (event := json.loads(await socket.recv()))["type"] != kind:
        assert event["type"] != "error", event
    return event


async def _refusal(socket: ClientConnection, kind: str, **fields: Any) -> str:
    """Send an event that is wrong, and return what is said about it, without the ids that it held."""
    await _send(socket, kind, **fields)
    while (event := json.loads(await socket.recv()))["type"] != "error":
        pass
    told = json.dumps(event["error"])
    for id in _ids(fields):
        told = told.replace(id, "…")
    return told


def _ids(fields: Any) -> list[str]:
    if isinstance(fields, dict):
        return [
            found
            for name, value in fields.items()
            for found in ([value] if name in ("item_id", "response_id", "id") else _ids(value))
        ]
    return [found for each in fields for found in _ids(each)] if isinstance(fields, list) else []
