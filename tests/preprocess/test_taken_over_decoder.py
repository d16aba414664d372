"""A decoder that a file has taken over: it tries every way out, within the product's own pool and fork server."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Generator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from services.preprocess.decoding import processes
from services.preprocess.decoding.isolation.layers import ALL, IsolationMissing, Layer
from services.preprocess.decoding.jobs import Job
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.limits import MediaLimits
from services.preprocess.media.problems import MediaProblem
from tests.preprocess.media_files import image_file, photograph
from tests.preprocess.taken_over.decoder import MARK
from tests.preprocess.taken_over.escapes import ESCAPES
from tests.preprocess.taken_over.world import POD, ROOT, SECRET, outside_world

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="plays services of other users, so it must be root"),
]
TAKEN_OVER = "tests.preprocess.taken_over"


@pytest.fixture(scope="module")
def world() -> Generator[dict[int, dict[str, Any]]]:
    with outside_world(ROOT) as of_root, outside_world(POD) as of_pod:
        yield {ROOT: of_root, POD: of_pod}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["as_root", "as_pod", "as_restricted_pod"])
async def pool(request: pytest.FixtureRequest) -> AsyncGenerator[DecodePool]:
    """A pool of decoders that files take over, in a service that is root, in a pod, and in a pod without namespaces."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "_FORK_SERVER", f"{TAKEN_OVER}.{request.param}")
        async with DecodePool(1, memory_bytes=1 << 30, timeout_s=30) as pool:
            await pool.start()
            pool.uid = ROOT if request.param == "as_root" else POD  # pyright: ignore[reportAttributeAccessIssue]
            pool.namespaces = request.param != "as_restricted_pod"  # pyright: ignore[reportAttributeAccessIssue]
            yield pool


async def order(pool: DecodePool, what: bytes, owner: str = "a") -> str:
    """Let a file take a decoder over. Return what it says."""
    with pytest.raises(MediaProblem) as caught:
        await pool.decode(Job("image", (MARK + what,), MediaLimits(), owner=owner))
    return caught.value.message


async def test_the_pool_says_which_layers_are_on(pool: Any):
    namespaces = {layer for layer in ALL if layer.endswith("-namespace")}
    refused: set[Layer] = set() if pool.namespaces else namespaces | {Layer.USER}
    assert {layer for layer, why in pool.layers.items() if why} == refused
    assert set(pool.layers) == ALL
    assert all(pool.layers[layer] == "Operation not permitted" for layer in refused)


@pytest.mark.parametrize("escape", sorted(ESCAPES))
async def test_a_taken_over_decoder_gets_nowhere(world: dict[int, dict[str, Any]], pool: Any, escape: str):
    said = await order(pool, json.dumps({"escape": escape, **world[pool.uid]}).encode())
    assert "refused" in json.loads(said)
    assert SECRET not in said


async def test_a_taken_over_decoder_has_nothing_open_but_its_job(pool: DecodePool):
    # Three null devices, its socket, the job's files, the results.
    assert len(json.loads(await order(pool, b"descriptors"))) == 6


async def test_nothing_stays_for_the_next_request(pool: DecodePool):
    # While another file of the same request waits, its decoder takes that one too.
    said = await asyncio.gather(*[order(pool, b"keep stolen", owner="tenant/1") for _ in range(2)])
    assert said == ["found None", "found keep stolen"]
    said = await asyncio.gather(*[order(pool, b"keep stolen", owner=f"tenant/{i}") for i in (2, 3)])
    assert said == ["found None", "found None"]


async def test_a_taken_over_decoder_does_not_speak_for_the_service(pool: DecodePool):
    assert await order(pool, b"speak as the service") == (
        "The file breaks its decoder. Send a file that other programs can play or show."
    )


async def test_a_confined_decoder_still_decodes(pool: DecodePool):
    decoded = await pool.decode(Job("image", (image_file(photograph(), "png"),), MediaLimits()))
    assert np.array_equal(decoded.main, photograph())


async def test_a_required_layer_that_is_not_granted_stops_the_start():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "_FORK_SERVER", f"{TAKEN_OVER}.as_restricted_pod")
        async with DecodePool(1, memory_bytes=1 << 30, timeout_s=30, required=(Layer.NETWORK_NAMESPACE,)) as pool:
            with pytest.raises(IsolationMissing, match=r"network-namespace \(Operation not permitted\)"):
                await pool.start()
