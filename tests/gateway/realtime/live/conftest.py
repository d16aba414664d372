"""What all tests of the Live API have in common."""

from __future__ import annotations

import pytest

from services.gateway.realtime.live import connection, silence
from tests.fixtures.wait import HANGS_AFTER_S


@pytest.fixture(autouse=True)
def patient_with_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients start late: on a busy machine they would be taken for silent."""
    monkeypatch.setattr(connection, "START_S", HANGS_AFTER_S)


@pytest.fixture(autouse=True)
def silent_without_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send no silence, so that all audio is speech."""
    monkeypatch.setattr(silence, "SILENCE_MS", 0.0)
