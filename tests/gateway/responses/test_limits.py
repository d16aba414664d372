"""Limits and records of responses: those of every turn."""

from __future__ import annotations

from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import INSTRUCT
from tests.gateway.responses.checked import checked_response
from tests.gateway.responses.conftest import RESPONSES
from tests.gateway.scripted.control_plane import KEY, limit
from tests.gateway.scripted.usage_records import the_record
from tests.gateway.turn.test_limits import STORY, as_key, limited


async def test_a_limit_of_the_key_cuts_a_response_and_is_named(store: RedisServer) -> None:
    async with limited(store, limit("answer_tokens_per_minute", 8)) as running:
        post = running.stages.gateway.client.post
        body = {"model": INSTRUCT.name, "input": "hello"}
        answered = await post(RESPONSES, json=body, headers=as_key(KEY))
        response = checked_response(answered.json())
        assert (response["status"], response["antiphon_limit"]) == ("incomplete", "answer_tokens_per_minute")
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        record = await the_record(store)
        assert (record.kind, record.outcome, record.tenant) == ("chat", "limit", "acme.prod")
        assert (record.amounts.prompt_text_tokens, record.amounts.completion_text_tokens) == (3, 8)
        assert response["usage"]["output_tokens"] == 8
        refused = await post(RESPONSES, json=body, headers=as_key(KEY))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert len(STORY.token_ids) > 8
