"""The thinker reads what a user says while they speak."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import BadInput
from services.common.queues.tickets import PriorityClass
from services.gateway.realtime.conversation import SAMPLE_RATE, wav_of
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import LongStory, talking
from tests.gateway.realtime.test_server_vad import BEFORE, ROOMY, VAD
from tests.gateway.responses.conftest import WEATHER, card
from tests.gateway.samples import sample
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

SECOND = bytes(2 * SAMPLE_RATE)
SPOKEN: dict[str, Any] = {**ROOMY, "realtime_eager_silence_ms": 0}


def heard(stages: Stages) -> list[bytes]:
    """Return the last sound of each prepared prompt."""
    return [media[-1] for worker in stages.preprocess for media in worker.media]


async def test_each_finished_window_is_read_once_while_the_user_speaks(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **ROOMY) as stages,
        talking(stages) as client,
    ):
        read = sample("antiphon_gateway_realtime_prefills_total", outcome="read")
        await client.append(8 * SECOND)
        await client.settled()
        assert not stages.calls("preprocess")  # the window's last frames need what comes behind it
        await client.append(SECOND)
        await wait_until(lambda: len(stages.calls("thinker")) == 1)
        await wait_until(stages.clean)
        await client.append(8 * SECOND)
        await wait_until(lambda: len(stages.calls("thinker")) == 2)
        await wait_until(stages.clean)
        for call in stages.calls("thinker"):
            assert call.sampling.max_tokens == 1
        assert not stages.calls("talker")
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        await client.ask("response.create", "response.done")
        assert client.events[-1].response.status == "completed"
        *ahead, last = heard(stages)
        assert last == wav_of(17 * SECOND)
        for sound in ahead:  # each begins as the whole does
            assert last[44:].startswith(sound[44:])
        assert [len(sound) > seconds * len(SECOND) for sound, seconds in zip(ahead, (8, 16), strict=True)] == [True] * 2
        assert sample("antiphon_gateway_realtime_prefills_total", outcome="read") == read + 2


async def test_what_is_read_ahead_begins_as_the_responses_prompt_does(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), card=card(), workers=1, slots=8, **ROOMY) as stages,
        talking(stages, instructions="Be brief.", tools=[WEATHER]) as client,
    ):
        await client.write("Before.")
        await client.append(9 * SECOND)
        await wait_until(lambda: len(stages.calls("thinker")) == 1)
        await wait_until(stages.clean)
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        await client.ask("response.create", "response.done")
        ahead, answer = stages.calls("preprocess")
        for call in (ahead, answer):
            call.messages[-1].parts[0].path = ""  # names an item that is not there yet
        assert ahead.messages == answer.messages
        assert ahead.tools_json == answer.tools_json != ""


async def test_what_is_read_ahead_waits_behind_others_and_ends_with_the_turn(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **ROOMY) as stages,
        talking(stages) as client,
    ):
        stages.next_calls("thinker", Act("hang", 0))
        await client.append(9 * SECOND)
        (thinker,) = stages.thinker
        await wait_until(lambda: thinker.script.hanging)
        assert stages.calls("thinker")[0].context.priority == PriorityClass.READ_AHEAD
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        await wait_until(stages.clean)
        await client.ask("response.create", "response.done")
        assert client.events[-1].response.status == "completed"


async def test_what_the_server_hears_as_a_turn_is_read_from_its_beginning(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **SPOKEN) as stages,
        talking(stages, VAD) as client,
    ):
        await client.append(silence(9000))  # nobody speaks
        await client.settled()
        assert not stages.calls("preprocess")
        spoken = silence(BEFORE)
        while len(spoken) < 9.5 * len(SECOND):
            spoken += said("hello")[: 48 * 900]
        await client.append(spoken)
        await wait_until(lambda: len(stages.calls("thinker")) == 1)
        await client.append(silence(1500))
        assert (await client.until("response.done")).response.status == "completed"
        ahead, last = heard(stages)
        assert last[44:].startswith(ahead[44:])


@pytest.mark.parametrize("fails", ["preprocess", "thinker"])
async def test_a_failure_is_none_of_the_clients(store: RedisServer, fails: str) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, **ROOMY) as stages,
        talking(stages) as client,
    ):
        stages.next_calls(fails, Act("raise", 0, BadInput("It is refused.")))
        await client.append(9 * SECOND)
        await wait_until(lambda: stages.calls(fails))
        await wait_until(stages.clean)
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        await client.ask("response.create", "response.done")
        assert client.events[-1].response.status == "completed"
        assert "error" not in client.types


async def test_it_can_be_turned_off(store: RedisServer) -> None:
    async with (
        scripted_stages(store.url, LongStory(frames=2), workers=1, slots=8, realtime_prefill=False, **ROOMY) as stages,
        talking(stages) as client,
    ):
        await client.append(9 * SECOND)
        await client.settled()
        await client.ask("input_audio_buffer.commit", "conversation.item.done")
        assert not stages.calls("preprocess")
