"""Playwright's `expect`, imported when it is first used: a run of other tests collects these, too."""

from __future__ import annotations

from typing import Any


def expect(actual: Any) -> Any:
    from playwright.async_api import expect

    return expect(actual)
