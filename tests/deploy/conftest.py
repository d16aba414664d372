"""The metrics of the running stack after it spoke an answer about a picture."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.deploy.exported import Family, scrape
from tests.e2e.media import image_part, text_part
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S

SERVICES = ("gateway", "preprocess", "thinker", "talker")


@pytest.fixture(scope="session")
def exported(stack: Stack) -> dict[str, dict[str, Family]]:
    """Return service → metric → what /metrics shows."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": [image_part(), text_part("What is that?")]}]
    asked = {
        "messages": messages,
        "modalities": ["text", "audio"],
        "audio": {"voice": "ethan", "format": "pcm16"},
        "max_tokens": 8,
        "talker": {"max_frames": 5},
    }
    with httpx.Client(
        base_url=stack.url, headers={"authorization": f"Bearer {stack.api_key}"}, timeout=HANGS_AFTER_S
    ) as client:
        client.post("/v1/chat/completions", json=asked).raise_for_status()
        client.post("/v1/chat/completions", json={"messages": [], "model": "no-such"})
    return {service: scrape(stack, service) for service in SERVICES}


@pytest.fixture(scope="session")
def series(exported: dict[str, dict[str, Family]]) -> dict[str, Family]:
    """Return each series name that PromQL may use → its metric, with the labels of all services that have it."""
    found: dict[str, Family] = {}
    for families in exported.values():
        for family in families.values():
            for name in family.series:
                known = found.setdefault(name, Family(family.name, family.kind, family.help))
                known.labels |= family.labels
                known.has_samples |= family.has_samples
    return found
