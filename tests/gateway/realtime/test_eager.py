"""Responses that are begun before the turn is over."""

from __future__ import annotations

from typing import Any

from antiphon.v1 import talker_pb2
from services.common.errors import BadInput
from services.gateway.realtime.conversation import wav_of
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import LongStory, talking
from tests.gateway.realtime.test_server_vad import BEFORE, ROOMY, VAD, conversation
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import scripted_stages
from tests.gateway.scripted.usage_records import forget_usage, open_accounts, usage_records

EAGER: dict[str, Any] = {"realtime_eager_silence_ms": 200}
HELLO = silence(BEFORE) + said("hello")
PAUSE = silence(350)
"""Long enough to work ahead, and no end yet."""
GOES_ON = said("hello")[48 * 110 :]
"""Without the silence that the recording begins with."""


async def test_an_answer_that_was_begun_ahead_is_given_at_the_turns_end(store: RedisServer) -> None:
    async with conversation(store, **EAGER) as (stages, client):
        await client.append(HELLO + PAUSE)
        await wait_until(lambda: stages.calls("talker"))
        await client.settled()
        assert client.types[2:] == ["input_audio_buffer.speech_started", "error"]
        await client.append(silence(400))
        assert (await client.until("response.done")).response.status == "completed"
        events = [event for event in client.events if not event.type.endswith(".delta")]
        assert [event.type for event in events[4:8]] == [
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
        ]
        assert client.audio() == stages.story.pcm
        # The item is what the model has heard.
        (((heard,),),) = [worker.media for worker in stages.preprocess]
        start, end = events[2].audio_start_ms, events[4].audio_end_ms
        assert heard == wav_of((HELLO + PAUSE)[48 * start : 48 * end])
        assert len(stages.calls("thinker")) == 1


async def test_an_answer_is_thrown_away_when_the_user_goes_on_and_costs_nothing(store: RedisServer) -> None:
    await forget_usage(store)
    story = LongStory(frames=4, again_from=0, derailment=talker_pb2.DERAILMENT_SILENCE)
    async with (
        scripted_stages(store.url, story, workers=1, slots=8, usage_records="on", **ROOMY, **EAGER) as stages,
        talking(stages, VAD) as client,
    ):
        await client.append(HELLO + PAUSE)
        await wait_until(lambda: stages.calls("talker"))
        await client.append(GOES_ON)
        await wait_until(stages.clean)
        await client.append(silence(900))
        assert (await client.until("response.done")).response.status == "completed"
        assert client.types.count("response.created") == 1
        assert client.audio() == stages.story.pcm
        first, *_, last = [media for (media,) in stages.preprocess[0].media]
        assert len(last) > len(first)
        await wait_until(stages.clean)

        async def closed() -> bool:
            return len(await usage_records(store)) == len(stages.calls("preprocess")) and not (
                await open_accounts(store)
            )

        await wait_until(closed)
        records = {record.outcome: record for record in await usage_records(store)}
        assert records.keys() == {"ok", "discarded"}
        assert records["discarded"].amounts.ByteSize() == 0
        assert records["ok"].amounts.audio_out_ms > 0
        told = {outcome: (record.derailment, record.spoken_again) for outcome, record in records.items()}
        assert told == {"ok": ("silence", 1), "discarded": ("", 0)}
        assert 'antiphon_gateway_realtime_eager_responses_total{outcome="thrown_away"}' in await stages.gateway.scrape()


async def test_a_session_whose_answer_is_held_back_counts_as_idle(store: RedisServer) -> None:
    """A client that goes silent there is closed as any other."""
    async with conversation(store, **EAGER) as (stages, client):
        stages.next_calls("talker", Act("hang", 1))
        await client.append(HELLO + PAUSE)
        await wait_until(lambda: stages.calls("talker"))
        await client.settled()
        (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
        assert not session.is_responding
        await client.append(silence(400))
        await client.until("response.created")
        assert session.is_responding
        await client.ask("response.cancel", "response.done")


async def test_work_ahead_is_bounded_for_a_turn(store: RedisServer) -> None:
    async with conversation(store, realtime_eager_tries=1, **EAGER) as (stages, client):
        for _ in range(3):
            await client.append(GOES_ON + PAUSE)
        await client.settled()
        assert len(stages.calls("preprocess")) <= 1
        await client.append(silence(400))
        await client.until("response.done")
        await wait_until(stages.clean)
        assert client.types.count("input_audio_buffer.committed") == 1
        assert len(stages.calls("preprocess")) <= 2


async def test_an_answer_to_what_has_changed_since_is_not_given(store: RedisServer) -> None:
    async with conversation(store, **EAGER) as (stages, client):
        await client.append(HELLO + PAUSE)
        await wait_until(lambda: stages.calls("talker"))
        await client.write("And be brief.")
        await client.append(silence(400))
        await client.until("response.done")
        texts = [part.text for message in stages.calls("preprocess")[-1].messages for part in message.parts]
        assert "And be brief." in texts
        assert client.types.count("response.created") == 1


async def test_an_answer_that_failed_ahead_is_begun_anew(store: RedisServer) -> None:
    async with conversation(store, **EAGER) as (stages, client):
        stages.next_calls("preprocess", Act("raise", error=BadInput("Not this.")))
        await client.append(HELLO + PAUSE)
        await wait_until(lambda: stages.calls("preprocess"))
        await wait_until(stages.clean)
        await client.append(silence(400))
        assert (await client.until("response.done")).response.status == "completed"


async def test_a_response_that_the_client_asks_for_comes_first(store: RedisServer) -> None:
    async with conversation(store, **EAGER) as (stages, client):
        await client.write("hello")
        await client.append(HELLO + PAUSE)
        await wait_until(lambda: stages.calls("talker"))
        stages.next_calls("talker", Act("hang", 1))
        await client.ask("response.create", "response.created")
        await client.append(silence(400))
        await client.until("input_audio_buffer.committed")
        cancelled: Any = await client.ask("response.cancel", "response.done")
        assert cancelled.response.status == "cancelled"
        assert (await client.until("response.done")).response.status == "completed"
