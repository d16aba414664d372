"""What Bob may try with DashScope's uploads, and what comes of it."""

from __future__ import annotations

from dataclasses import replace

from tests.gateway.conftest import INSTRUCT
from tests.gateway.requests import REQUESTS, Asked, ask, posted, upload_policy
from tests.isolation.world import World, check_indistinguishable, told_flat

NOBODYS = f"dashscope-instant/{'0' * 32}/a.png"


async def policy(world: World, name: str) -> None:
    """Models that are not his stay unknown, and his policy tells nothing of her."""
    asked = REQUESTS[name]
    await check_indistinguishable(world, lambda model: told_flat(world, asked.of_model(model)))
    hers = await upload_policy(world.gateway, world.alice.secret)
    world.alice.things |= {hers[field] for field in ("policy", "signature", "upload_dir")}
    his = await ask(world.gateway, asked.of_model(INSTRUCT.name), world.bob.secret)
    world.check_hidden(his.text + str(his.headers))


async def post(world: World, name: str) -> None:
    """His policy puts nothing among her files, her file is to him as none wherever he names it, and stays hers."""
    hers = await upload_policy(world.gateway, world.alice.secret)
    uploaded = await ask(world.gateway, posted(hers), "")
    assert uploaded.status_code == 200, uploaded.text
    key = f"{hers['upload_dir']}/a.png"
    his = await upload_policy(world.gateway, world.bob.secret)

    async def put_as(key: str) -> str:
        asked = posted(his)
        return await told_flat(world, replace(asked, body={**asked.body, "data": {**asked.body["data"], "key": key}}))

    async def named(key: str) -> str:
        return await told_flat(world, _naming(key))

    for told in (put_as, named):
        await check_indistinguishable(world, told, (key, NOBODYS))
    with world.new_calls() as calls:
        answer = await ask(world.gateway, _naming(key), world.alice.secret)
    assert answer.status_code == 200, answer.text
    assert {call.context.tenant for call in calls} == {world.alice.name}


def _naming(key: str) -> Asked:
    content = [{"image": f"oss://{key}"}]
    body = {"model": INSTRUCT.name, "input": {"messages": [{"role": "user", "content": content}]}}
    return replace(REQUESTS["generateMultimodal"], body={"json": body})
