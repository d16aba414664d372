"""The command line in the test's process, and servers for it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from services.cli.__main__ import main
from tests.cli.api_server import ApiServer


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


class Keyboard(io.StringIO):
    """Standard input at a terminal."""

    def isatty(self) -> bool:
        return True


class Antiphon:
    """Runs `antiphon`. Its standard input is no terminal, unless `types` says what a person types."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, stdin: str = "", types: str | None = None) -> Ended:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin) if types is None else Keyboard(types))
        try:
            status = main(list(arguments))
        except SystemExit as ended:  # argparse's own
            status = int(str(ended.code))
        said = self._capsys.readouterr()
        return Ended(status, said.out, said.err)


@pytest.fixture
def antiphon(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Antiphon:
    for name in [name for name in os.environ if name.startswith("ANTIPHON_")]:
        monkeypatch.delenv(name)
    return Antiphon(monkeypatch, capsys)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the waits between tries, which take no time here."""
    taken: list[float] = []
    monkeypatch.setattr("services.cli.client.server.time.sleep", taken.append)
    return taken
