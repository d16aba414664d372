"""Terms and prices that the control plane sends: limits, the place in the queues, and what is kept in the file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from antiphon.v1 import control_pb2
from services.common.limit_kinds import LimitKind
from services.common.queues import Group, TenantTerms
from services.gateway.control.cache_file import TenantCacheFile
from services.gateway.control.tenants import ControlTenants
from services.gateway.control.terms import subject_terms_of
from services.gateway.gateway import queue_terms
from services.gateway.tenants import TenantTermsSettings, TenantUpdate
from services.gateway.usage.limits import Limit, SubjectTerms
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.control_plane import TOKEN, ScriptedControl, limit, price, scripted_control

SETTINGS = {"acme.prod": TenantTermsSettings(weight=3), "*": TenantTermsSettings(weight=0.5)}


def source(control: ScriptedControl, cache: Path) -> ControlTenants:
    return ControlTenants(control.address, TOKEN, TenantCacheFile(cache), max_age_s=60, terms=SETTINGS)


@asynccontextmanager
async def followed(follower: ControlTenants) -> AsyncGenerator[list[TenantUpdate]]:
    updates = [follower.start()]
    task = asyncio.create_task(follower.follow(updates.append))
    try:
        yield updates
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_terms_and_prices_are_followed_and_kept_in_the_file(tmp_path: Path) -> None:
    cache = tmp_path / "tenants"
    async with scripted_control() as control:
        control.limit("org_1", limit("tokens_per_day", 7, passes=True), models=["tiny"], voices=["Ethan"])
        control.prices = [price("requests", 5)]
        async with followed(source(control, cache)) as updates:
            await wait_until(lambda: len(updates) == 2)
            terms = SubjectTerms(
                (Limit("org_1", LimitKind.TOKENS_PER_DAY, 7, passes_without_redis=True),),
                frozenset({"tiny"}),
                frozenset({"ethan"}),
            )
            assert updates[1].put_subjects == {"org_1": terms}
            assert [each.id for each in updates[1].prices or ()] == ["price_requests"]
            assert {key.project_id for key in updates[1].put} == {"proj_1"}
            assert updates[1].terms == SETTINGS
            await wait_until(cache.exists)
        started = source(control, cache).start()
        assert started.put_subjects == {"org_1": terms}
        assert [each.id for each in started.prices or ()] == ["price_requests"]


async def test_a_projects_weight_stands_in_the_place_of_the_settings(tmp_path: Path) -> None:
    async with scripted_control() as control:
        control.limit("proj_1", weight=2.5, priority=9, max_slots=4, max_share=0)
        async with followed(source(control, tmp_path / "tenants")) as updates:
            await wait_until(lambda: len(updates) == 2)
            project = TenantTermsSettings(weight=2.5, priority=3, max_slots=4)
            assert updates[1].terms == {**SETTINGS, "acme.prod": project}
            del control.terms["proj_1"]
            control.tell()
            await wait_until(lambda: len(updates) == 3)
            assert updates[2].terms == SETTINGS


async def test_an_organisation_with_a_limit_is_a_group_of_its_tenants(tmp_path: Path) -> None:
    async with scripted_control() as control:
        control.limit("org_1", max_slots=4, max_share=0.5)
        async with followed(source(control, tmp_path / "tenants")) as updates:
            await wait_until(lambda: len(updates) == 2)
            assert updates[1].groups == {"acme.prod": Group("org_1", 4, 0.5)}
            assert updates[1].terms == SETTINGS
            control.limit("org_1", limit("requests_per_day", 2))
            control.tell()
            await wait_until(lambda: len(updates) == 3)
            assert updates[2].groups == {}


def test_a_tenant_of_a_group_keeps_its_own_terms_or_those_of_all_others() -> None:
    group = Group("org_1", 4)
    assert queue_terms(SETTINGS, dict.fromkeys(("acme.prod", "acme.test"), group)) == {
        "acme.prod": TenantTerms(weight=3, group=group),
        "acme.test": TenantTerms(weight=0.5, group=group),
        "*": TenantTerms(weight=0.5),
    }
    assert queue_terms({}, {"acme.prod": group}) == {"acme.prod": TenantTerms(group=group)}


def test_limits_of_a_newer_control_plane_are_left_out() -> None:
    newer = control_pb2.Limit(kind=99, amount=1)  # type: ignore[arg-type]
    terms = control_pb2.SubjectTerms(subject="key_1", limits=[newer, limit("requests_per_day", 2)])
    assert subject_terms_of(terms).limits == (Limit("key_1", LimitKind.REQUESTS_PER_DAY, 2),)


def test_every_limit_of_the_proto_is_known() -> None:
    names = {name.removeprefix("LIMIT_KIND_").lower() for name in control_pb2.LimitKind.DESCRIPTOR.values_by_name}
    assert names - {"unspecified"} == set(LimitKind)
