"""Two tenants of one installation: a control plane, a gateway that follows it, and scripted workers behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from antiphon.v1 import common_pb2
from tests.control.conftest import TOKEN, RunningControl, running_control
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import CAPTIONER, INSTRUCT, RunningGateway, absent_workers
from tests.gateway.requests import REQUESTS, Asked, ask
from tests.gateway.scripted.stages import Stages, scripted_stages

ALICES_MODEL = common_pb2.ModelCard(
    name="alices-model",
    kind=common_pb2.MODEL_KIND_INSTRUCT,
    max_model_len=1000,
    voices=["alices-voice"],
    default_voice="alices-voice",
    sample_rate=24_000,
)
NO_MODEL = "nobodys-model"
SHARED = [INSTRUCT.name, CAPTIONER.name]
"""Models that both may use."""
ALICES_WORDS = "the words of alice"
_NAMING_HEADERS = ("x-tenant", "x-antiphon-tenant", "x-project", "openai-project", "openai-organization")


@dataclass
class Tenant:
    name: str
    project: str
    organisation: str
    key: dict[str, Any]
    reader: dict[str, Any]
    # Whatever else names something of hers: ids of her requests, items, answers.
    things: set[str] = field(default_factory=set[str])

    @property
    def secret(self) -> str:
        return self.key["secret"]

    @property
    def ids(self) -> list[str]:
        return [self.organisation, self.project, self.key["id"], self.reader["id"]]

    @property
    def marks(self) -> set[str]:
        """What nobody else may read."""
        keys = {made[name] for made in (self.key, self.reader) for name in ("id", "name", "prefix", "secret")}
        return {self.name, self.project, self.organisation, *keys, *self.things}


@dataclass
class World:
    control: RunningControl
    stages: Stages
    # Of the control plane, without a key.
    client: httpx.AsyncClient
    alice: Tenant
    bob: Tenant

    @property
    def gateway(self) -> RunningGateway:
        return self.stages.gateway

    @property
    def marks(self) -> set[str]:
        """What Bob may not read."""
        return {*self.alice.marks, ALICES_MODEL.name, *ALICES_MODEL.voices, ALICES_WORDS}

    def check_hidden(self, text: str, *sent: str) -> None:
        """Assert that Bob reads nothing of Alice's in `text`, but for what he `sent` himself."""
        for known in sent:
            text = text.replace(known, "")
        assert not [mark for mark in self.marks if mark in text], text

    @contextmanager
    def new_calls(self) -> Generator[list[Any]]:
        """Return a list that has, after the block, the calls that workers received in it."""
        before = {id(worker): len(worker.calls) for worker in self.stages.workers}
        calls: list[Any] = []
        yield calls
        calls += [call for worker in self.stages.workers for call in worker.calls[before[id(worker)] :]]


async def check_indistinguishable(
    world: World,
    refused: Callable[[str], Awaitable[str]],
    hers_and_nobodys: tuple[str, str] = (ALICES_MODEL.name, NO_MODEL),
) -> None:
    """Assert that Bob is told the same of what is Alice's, by default a model, and of what does not exist. `refused`:
    a name → what he is told."""
    hers, nobodys = [(await refused(name)).replace(name, "…") for name in hers_and_nobodys]
    assert hers == nobodys
    world.check_hidden(hers)


@asynccontextmanager
async def two_tenants(database_url: str, store_url: str, folder: Path) -> AsyncGenerator[World]:
    async with running_control(database_url, redis_url=store_url) as control:
        settings: dict[str, Any] = {
            "api_key": "",
            "control_address": control.address,
            "control_token": SecretStr(TOKEN),
            "control_cache_file": folder / "tenants",
            "page": True,
            "webrtc": True,
            "webrtc_host": "127.0.0.1",
            "webrtc_port": 0,
            "object_store_url": f"file://{folder}/objects",
        }
        async with (
            scripted_stages(store_url, workers=1, slots=4, captioner=True, **settings) as stages,
            absent_workers(store_url, ALICES_MODEL),
            httpx.AsyncClient(base_url=control.url, timeout=HANGS_AFTER_S) as client,
        ):
            alice = await _tenant(control, "alice", models=[*SHARED, ALICES_MODEL.name], voices=[])
            bob = await _tenant(control, "bob", models=SHARED, voices=["ethan"])
            world = World(control, stages, client, alice, bob)
            await wait_until(lambda: _terms_are_known(world))
            yield world
            await wait_until(stages.clean)


async def _tenant(control: RunningControl, name: str, **terms: list[str]) -> Tenant:
    project = await control.new_project(f"{name}-corp", f"{name}-prod")
    described = await control.get(f"/projects/{project}")
    await control.put(f"/projects/{project}/terms", terms)
    key = await control.new_key(project, f"{name}-key")
    reader = await control.new_key(project, f"{name}-reader", scopes=["admin_read"])
    return Tenant(described["tenant"], project, described["organisation_id"], key, reader)


async def _terms_are_known(world: World) -> bool:
    """Return whether the gateway knows both keys, their terms and both models."""
    listed: list[set[str]] = []
    for tenant in (world.alice, world.bob):
        answer = await ask(world.gateway, REQUESTS["listModels"], tenant.secret)
        if answer.status_code != 200:
            return False
        listed.append({model["id"] for model in answer.json()["data"]})
    return listed == [{ALICES_MODEL.name, *SHARED}, set(SHARED)]


async def told(world: World, asked: Asked) -> str:
    """Return what Bob is told: status and body, without what is the request's alone."""
    answer = await ask(world.gateway, asked, world.bob.secret)
    return f"{answer.status_code} {json.dumps(answer.json(), sort_keys=True)}"


async def told_flat(world: World, asked: Asked) -> str:
    """As `told`, of an error in DashScope's form, which has the request's id."""
    answer = await ask(world.gateway, asked, world.bob.secret)
    error = answer.json()
    assert error.pop("request_id") == answer.headers["x-request-id"]
    return f"{answer.status_code} {json.dumps(error, sort_keys=True)}"


def naming(tenant: Tenant) -> dict[str, str]:
    """Return headers that claim to be a tenant's, and the id of one of its requests."""
    return {**dict.fromkeys(_NAMING_HEADERS, tenant.name), "x-request-id": next(iter(tenant.things), "req_1")}
