"""What the conversation keeps of answers that their client cut."""

from __future__ import annotations

from tests.fixtures.redis import RedisServer
from tests.gateway.realtime.test_server_vad import conversation, transcripts, utterance


async def test_who_speaks_after_a_truncation_does_not_cut_the_answer_again(store: RedisServer) -> None:
    """By the clock the client would play yet: it has said that it plays no more."""
    async with conversation(store, frames=100, realtime_lead_s=60) as (stages, client):
        await client.append(utterance())
        item = (await client.until("response.done")).response.output[0]
        cut = {"item_id": item.id, "content_index": 0, "audio_end_ms": 1000}
        await client.ask("conversation.item.truncate", "conversation.item.truncated", **cut)
        shown = (await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item.id)).item
        heard = shown.content[0].transcript
        assert heard
        await client.append(utterance("tt-weasels"))
        await client.until("response.done")
        assert transcripts(stages) == [heard]
