"""What a talker says of speech that no longer followed its text, on its way to the database and to its readers."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from antiphon.v1 import talker_pb2
from services.common.key_scopes import ALL_SCOPES
from services.control.store.models import UsageRow
from tests.control.conftest import opened
from tests.control.test_events import Receiver, receiver
from tests.control.test_first_day import ask, everything, is_known
from tests.control.test_usage import pages
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.stages import SPEECH
from tests.gateway.scripted.story import Story

__all__ = ["receiver"]

STORY = Story(again_from=4, derailment=talker_pb2.DERAILMENT_ENDLESS)


async def test_it_is_in_the_row_the_sums_and_the_event(
    database_url: str, redis_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    sent = {"events_url": receiver.url}
    async with everything(database_url, redis_url, tmp_path, STORY, **sent) as (control, stages):
        key = await control.new_key(await control.new_project(), scopes=sorted(ALL_SCOPES))
        client = stages.gateway.client
        await wait_until(lambda: is_known(client, key["secret"]))
        for modalities in (SPEECH, {}):
            assert (await ask(client, key["secret"], **modalities)).status_code == 200
        await wait_until(lambda: len(receiver.ids) == 2)
        async with opened(database_url) as database, database.read() as session:
            rows = (await session.scalars(select(UsageRow).order_by(UsageRow.seq))).all()
        said = [(row.turn_id, row.derailment, row.spoken_again) for row in rows]
        assert [(why, again) for _, why, again in said] == [("endless", 1), ("", 0)]
        events = [event["data"] for _, body in receiver.requests for event in body]
        assert [(event["turn_id"], event["derailment"], event["spoken_again"]) for event in events] == said
        async with control.as_key(key["secret"]) as own:
            for used in (await pages(own, "/v1/usage?group="), await pages(control.client, "/admin/v1/usage?group=")):
                ((requests, derailed, again),) = [
                    (row["requests"], row["derailed_requests"], row["spoken_again"]) for row in used
                ]
                assert (requests, derailed, again) == (2, 1, 1)
