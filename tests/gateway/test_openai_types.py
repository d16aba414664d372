"""Each answer is as OpenAI's own client has it in its types. The client is strict here: a field that is missing, or of
another type, is an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.fixtures.redis import RedisServer
from tests.gateway.batches.conftest import Batching, batching, line
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.stages import HELLO

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = INSTRUCT.name
SOUND = ("a.wav", b"sound")
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
USAGE = {"include_usage": True}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Batching]:
    async with batching(store.url, tmp_path_factory.mktemp("types")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(world: Batching) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(
        base_url=f"{world.stages.gateway.url}/v1", api_key=API_KEY, max_retries=0, _strict_response_validation=True
    ) as strict:
        yield strict


@pytest.mark.parametrize("spoken", [{}, SPOKEN], ids=["text", "speech"])
async def test_chat_completions(client: Any, spoken: dict[str, Any]) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, **spoken}
    whole = await client.chat.completions.create(**asked)
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True, stream_options=USAGE)]
    assert whole.usage == chunks[-1].usage
    if not spoken:
        several = await client.chat.completions.create(**asked, n=2)
        assert [choice.message.content for choice in several.choices] == [whole.choices[0].message.content] * 2


async def test_models(client: Any) -> None:
    (model,) = (await client.models.list()).data
    assert await client.models.retrieve(MODEL) == model


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client says so of translations
@pytest.mark.parametrize("form", ["json", "text", "verbose_json"])
@pytest.mark.parametrize("kind", ["transcriptions", "translations"])
async def test_transcriptions(client: Any, kind: str, form: str) -> None:
    answer = await getattr(client.audio, kind).create(model=MODEL, file=SOUND, response_format=form)
    assert (answer if form == "text" else answer.text).startswith("w0 w1")


async def test_streamed_transcriptions(client: Any) -> None:
    events = [e async for e in await client.audio.transcriptions.create(model=MODEL, file=SOUND, stream=True)]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text


async def test_files_and_batches(world: Batching, client: Any) -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    file = await client.files.create(file=("a.jsonl", line("a").encode()), purpose="batch", expires_after=expires)
    assert await client.files.retrieve(file.id) == file
    assert [each.id for each in (await client.files.list(purpose="batch")).data] == [file.id]
    made = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    await world.ended(made.id)
    done = await client.batches.retrieve(made.id)
    assert (done.status, done.request_counts.completed) == ("completed", 1)
    assert [each.id for each in (await client.batches.list()).data] == [made.id]
    assert (await client.files.delete(done.output_file_id)).deleted


async def test_responses(client: Any) -> None:
    made = await client.responses.create(model=MODEL, input="hello", metadata={"a": "b"})
    assert (await client.responses.retrieve(made.id)).output_text == made.output_text
    assert len((await client.responses.input_items.list(made.id)).data) == 1
    events = [event async for event in await client.responses.create(model=MODEL, input="hello", stream=True)]
    assert events[-1].response.output_text == made.output_text
