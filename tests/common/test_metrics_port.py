"""The metrics port of a real server: scrapes, and readiness with its details."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import httpx
import pytest
from prometheus_client import Gauge

from tests.common.hosted import hosted
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


async def test_a_scrape_runs_its_callbacks_first():
    gauge = Gauge("test_scrapes", "Set at each scrape.")
    async with hosted() as (host, _, _):

        async def refresh() -> None:
            await asyncio.sleep(0)
            gauge.inc()

        host.on_scrape(refresh)
        async with httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
            url = f"http://127.0.0.1:{host.metrics_port}/metrics"
            pages = [(await client.get(url, params=some)).text for some in ({}, {"name[]": "test_scrapes"})]
    assert [f"test_scrapes {n}.0" in page for n, page in enumerate(pages, 1)] == [True, True]
    assert "process_cpu_seconds_total" not in pages[1]


async def test_a_scrape_with_a_failed_callback_shows_the_rest(caplog: pytest.LogCaptureFixture):
    async with hosted() as (host, _, _):

        async def refresh() -> None:
            raise RuntimeError

        host.on_scrape(refresh)
        async with httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
            page = await client.get(f"http://127.0.0.1:{host.metrics_port}/metrics")
    assert "python_info" in page.text
    assert "metrics are shown as they were" in caplog.text


async def test_the_metrics_port_tells_readiness_with_its_details():
    details: dict[str, Any] = {"layers": {"seccomp": "on"}}
    async with hosted() as (host, _, _), httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
        url = f"http://127.0.0.1:{host.metrics_port}/health/ready"
        assert "python_info" in (await client.get(url)).text  # nothing to tell: metrics, as at every path
        host.tell_when_ready(lambda: details)
        before = await client.get(url)
        assert (before.status_code, before.json()) == (503, {"status": "unavailable"})
        await host.become_ready()
        for layer in ("on", "off: Operation not permitted"):
            details["layers"] = {"seccomp": layer}
            answer = await client.get(url)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok", "layers": {"seccomp": layer}})
        await host.set_ready(False)
        assert (await client.get(url)).status_code == 503


async def test_readiness_that_fails_is_unavailable_and_logged(caplog: pytest.LogCaptureFixture):
    def fail() -> dict[str, Any]:
        raise LookupError("no decoder")

    async with hosted() as (host, _, _), httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
        host.tell_when_ready(fail)
        await host.become_ready()
        answer = await client.get(f"http://127.0.0.1:{host.metrics_port}/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
    assert "readiness is not known" in caplog.text


async def test_readiness_is_gone_when_a_drain_begins():
    drained: list[int] = []
    async with hosted() as (host, _, _), httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
        url = f"http://127.0.0.1:{host.metrics_port}/health/ready"
        host.tell_when_ready(dict)

        async def ask() -> None:
            drained.append((await client.get(url)).status_code)

        host.on_drain(ask)
        serving = asyncio.create_task(host.serve(started=True))

        async def is_ready() -> bool:
            return (await client.get(url)).status_code == 200

        await wait_until(is_ready)
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        await asyncio.wait_for(serving, HANGS_AFTER_S)
    assert drained == [503]
