"""One request makes one trace through all processes."""

from __future__ import annotations

import secrets

import openai

from tests.e2e.media import audio_part, text_part, tone_wav
from tests.fixtures.collector import Collector
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

HOPS = {
    ("gateway", "antiphon.gateway.turn"),
    ("gateway", "antiphon.gateway.queue.preprocess"),
    ("gateway", "antiphon.gateway.queue.thinker"),
    ("gateway", "antiphon.gateway.queue.talker"),
    ("preprocess", "antiphon.v1.Preprocess/Prepare"),
    ("preprocess", "antiphon.preprocess.decode"),
    ("preprocess", "antiphon.v1.Preprocess/Fetch"),
    ("thinker", "antiphon.v1.Thinker/Generate"),
    ("thinker", "antiphon.v1.Thinker/Fetch"),
    ("talker", "antiphon.v1.Talker/Speak"),
}


async def test_a_callers_trace_goes_through_every_hop_and_queue(stack: Stack, collector: Collector) -> None:
    tone = audio_part(tone_wav(1.31))  # a new tone: cached media would be neither fetched nor decoded
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    async with openai.AsyncOpenAI(base_url=stack.url + "/v1", api_key=stack.api_key, timeout=HANGS_AFTER_S) as client:
        await client.chat.completions.create(
            model=stack.model,
            messages=[{"role": "user", "content": [tone, text_part(f"Trace {trace_id}")]}],  # pyright: ignore[reportArgumentType]
            modalities=["text", "audio"],
            audio={"voice": "ethan", "format": "wav"},
            max_tokens=8,
            extra_headers={"traceparent": f"00-{trace_id}-{caller}-01"},
        )
    await wait_until(lambda: {(s.service, s.name) for s in collector.of_trace(trace_id)} >= HOPS)
    spans = collector.of_trace(trace_id)
    assert {span.parent_id for span in spans} <= {caller, *(span.span_id for span in spans)}
