"""What Bob may try with files and batches, and what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.fixtures.wait import wait_until
from tests.gateway.conftest import RunningGateway
from tests.gateway.requests import NO_BATCH, NO_FILE, REQUESTS, ask, made_batch, uploaded_file
from tests.isolation.world import Tenant, World, check_indistinguishable, naming, told


async def upload(world: World, name: str) -> None:
    """His files are his own, whatever he sends."""
    for tenant in (world.alice, world.bob):
        answer = await ask(world.gateway, REQUESTS[name], tenant.secret, **naming(world.alice))
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
