"""What Bob may try with live conversations, their calls and their secrets, and what comes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.gateway.conftest import INSTRUCT
from tests.gateway.requests import NO_CALL, REQUESTS, ask, made_call
from tests.isolation.engine_internals import ENGINE_INTERNALS
from tests.isolation.world import (
    ALICES_MODEL,
    ALICES_WORDS,
    NO_MODEL,
    Tenant,
    World,
    check_indistinguishable,
    naming,
    told,
    told_flat,
)


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


async def new_call(world: World, name: str) -> None:
    """As `realtime`, over another transport: the session behind it is the same."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told(world, asked.of_model(model)))
    hers = await made_call(world.gateway, world.alice.secret)
    his = await ask(world.gateway, asked, world.bob.secret, **naming(world.alice))
    assert his.status_code == 201
    world.alice.things.add(hers)
    world.check_hidden(his.text + str(his.headers))


async def call(world: World, name: str) -> None:
    """Alice's call is to Bob as none, and goes on whatever he asks."""
    asked, hers = REQUESTS[name], await made_call(world.gateway, world.alice.secret)
    world.alice.things.add(hers)
    await check_indistinguishable(world, lambda id: told(world, asked.of(id)), (hers, NO_CALL))
    assert (await ask(world.gateway, asked.of(hers), world.alice.secret)).status_code == 200


async def client_secret(world: World, name: str) -> None:
    """A secret of his is his key's, whatever model he names, and hers tells him nothing of her."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told(world, asked.of_model(model)))
    for tenant in (world.alice, world.bob):
        made = await ask(world.gateway, replace(asked, body={"json": {"scope": "chat"}}), tenant.secret)
        secret = made.json()["value"]
        with world.new_calls() as calls:
            answer = await ask(world.gateway, REQUESTS["createChatCompletion"], secret, **naming(world.alice))
        assert answer.status_code == 200
        assert {call.context.tenant for call in calls} == {tenant.name}
        if tenant is world.alice:
            tenant.things |= {secret, answer.headers["x-request-id"], *(call.context.request_id for call in calls)}
        else:
            world.check_hidden(made.text + answer.text + str(answer.headers))


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
