"""Batches from their file to their results, through the HTTP API."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.common.errors import Fault
from services.common.queues.tickets import PriorityClass
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import CHAT, HELLO, Batching, batching, line
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.script import Act

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Batching]:
    async with batching(store.url, tmp_path_factory.mktemp("batches"), batch_line_bytes=65_536) as running:
        yield running


async def test_a_line_becomes_what_its_request_would_answer(world: Batching) -> None:
    made = await world.create([line("a")], metadata={"of": "tests"})
    assert (made["object"], made["status"], made["request_counts"]["total"]) == ("batch", "validating", 0)
    assert made["metadata"] == {"of": "tests"}
    assert made["expires_at"] - made["created_at"] == 24 * 3600
    done = await world.ended(made["id"])
    assert done["status"] == "completed", done
    assert done["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert (done["error_file_id"], done["errors"], done["model"]) == (None, None, INSTRUCT.name)
    assert done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    [answer] = await world.lines_of(done["output_file_id"])
    asked = (await world.client.post(CHAT, json=HELLO)).json()
    assert (answer["custom_id"], answer["error"], answer["response"]["status_code"]) == ("a", None, 200)
    assert answer["response"]["request_id"].startswith("req_")
    assert answer["response"]["body"]["choices"] == asked["choices"]
    described = (await world.client.get(f"/v1/files/{done['output_file_id']}")).json()
    assert (described["purpose"], described["filename"]) == ("batch_output", f"{made['id']}_output.jsonl")


async def test_lines_that_fail_are_in_the_error_file(world: Batching) -> None:
    bodies: list[dict[str, Any]] = [
        HELLO,
        {**HELLO, "temperature": 9},
        {**HELLO, "stream": True},
        {**HELLO, "n": 2, "messages": []},
        HELLO,
    ]
    made = await world.create([line(f"line-{index}", body) for index, body in enumerate(bodies)])
    done = await world.ended(made["id"])
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 5, "completed": 2, "failed": 3})
    assert {each["custom_id"] for each in await world.lines_of(done["output_file_id"])} == {"line-0", "line-4"}
    wrong = {each["custom_id"]: each["response"] for each in await world.lines_of(done["error_file_id"])}
    told = {id: (each["status_code"], each["body"]["error"]["param"]) for id, each in wrong.items()}
    assert told == {"line-1": (400, "temperature"), "line-2": (400, "stream"), "line-3": (400, "messages")}


async def test_a_batch_of_failures_alone_has_no_output(world: Batching) -> None:
    done = await world.ended((await world.create([line("a", {**HELLO, "top_p": 2})]))["id"])
    assert (done["status"], done["output_file_id"]) == ("completed", None)
    assert len(await world.lines_of(done["error_file_id"])) == 1


async def test_speech_and_transcriptions_have_lines(world: Batching) -> None:
    speech, sound = "/v1/audio/speech", "/v1/audio/transcriptions"
    asked = {"input": "hello", "response_format": "pcm"}
    done = await world.ended((await world.create([line("a", asked, speech)], speech))["id"])
    [answer] = await world.lines_of(done["output_file_id"])
    direct = await world.client.post(speech, json=asked)
    body = answer["response"]["body"]
    assert (body["content_type"], base64.b64decode(body["data"])) == (direct.headers["content-type"], direct.content)

    data = base64.b64encode(b"sound").decode()
    lines = [
        line("base64", {"file": data, "language": "en", "temperature": 0}, sound),
        line("url", {"file": f"data:audio/wav;base64,{data}", "response_format": "text"}, sound),
        # A form has a field more than once where a line has a list.
        line("list", {"file": data, "include": [], "timestamp_granularities": []}, sound),
        line("words", {"file": data, "timestamp_granularities": ["segment", "word"]}, sound),
        line("none", {"language": "en"}, sound),
        line("wrong", {"file": "?"}, sound),
    ]
    done = await world.ended((await world.create(lines, sound))["id"])
    texts = {
        each["custom_id"]: each["response"]["body"]["text"] for each in await world.lines_of(done["output_file_id"])
    }
    said = (await world.client.post(sound, files={"file": ("a.wav", b"sound")})).json()["text"]
    assert {id: text.strip() for id, text in texts.items()} == dict.fromkeys(("base64", "url", "list"), said.strip())
    errors = {each["custom_id"]: each["response"]["body"] for each in await world.lines_of(done["error_file_id"])}
    params = {id: body["error"]["param"] for id, body in errors.items()}
    assert params == {"none": "file", "wrong": "file", "words": "timestamp_granularities"}
    form: dict[str, Any] = {
        "files": {"file": ("a.wav", b"sound")},
        "data": {"timestamp_granularities[]": ["segment", "word"]},
    }
    assert errors["words"] == (await world.client.post(sound, **form)).json()


@pytest.mark.parametrize(
    ("text", "code", "number"),
    [
        ("\n  \n", "empty_file", None),
        (line("a") + "\nnothing\n", "invalid_json_line", 2),
        (line("a") + "\n[]\n", "invalid_json_line", 2),
        (line("a") + "\n\n" + line("a"), "duplicate_custom_id", 3),
        (line("a", url="/v1/responses"), "mismatched_url", 1),
        (line("a").replace("POST", "GET"), "invalid_method", 1),
        (line(""), "invalid_custom_id", 1),
        ('{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}', "missing_required_parameter", 1),
        (line("a").replace('"method"', '"more": 1, "method"'), "unknown_parameter", 1),
        (line("a").replace("hello", "x" * 70_000), "line_too_large", 1),
    ],
    ids=range(10),
)
async def test_a_wrong_file_fails_the_batch(
    store: RedisServer, world: Batching, text: str, code: str, number: int | None
) -> None:
    uploaded = (await world.upload(text)).json()
    body = {"input_file_id": uploaded["id"], "endpoint": CHAT, "completion_window": "24h"}
    failed = await world.ended((await world.client.post("/v1/batches", json=body)).json()["id"])
    assert failed["status"] == "failed"
    [error] = failed["errors"]["data"]
    assert (error["code"], error["line"]) == (code, number)
    assert (failed["output_file_id"], failed["request_counts"]["total"]) == (None, 0)


async def test_lines_end_where_they_end(world: Batching) -> None:
    """A byte order mark, empty lines, carriage returns and a missing end of line are no part of a line."""
    text = "\ufeff" + line("a") + "\r\n\r\n" + line("ä", {**HELLO, "user": "\u2028"}) + "\n\n" + line("c")
    uploaded = (await world.upload(text)).json()
    body = {"input_file_id": uploaded["id"], "endpoint": CHAT, "completion_window": "24h"}
    done = await world.ended((await world.client.post("/v1/batches", json=body)).json()["id"])
    assert done["status"] == "completed", done["errors"]
    assert {each["custom_id"] for each in await world.lines_of(done["output_file_id"])} == {"a", "ä", "c"}


async def test_cancelling_keeps_what_is_done(world: Batching) -> None:
    [thinker] = world.stages.thinker
    thinker.engine.may_step.clear()
    try:
        made = await world.create([line(f"line-{index}") for index in range(12)])
        await wait_until(lambda: thinker.engine.inside)
        cancelled = await world.client.post(f"/v1/batches/{made['id']}/cancel")
        assert cancelled.json()["status"] == "cancelling"
        done = await world.ended(made["id"])
    finally:
        thinker.engine.may_step.set()
    assert done["status"] == "cancelled"
    assert done["cancelling_at"] <= done["cancelled_at"]
    counts = done["request_counts"]
    assert (counts["total"], counts["completed"] + counts["failed"]) == (12, 12)
    ended = [*await world.lines_of(done["output_file_id"]), *await world.lines_of(done["error_file_id"])]
    assert sorted(each["custom_id"] for each in ended) == sorted(f"line-{index}" for index in range(12))
    assert {each["error"]["code"] for each in ended if each["error"]} == {"batch_cancelled"}
    again = await world.client.post(f"/v1/batches/{made['id']}/cancel")
    assert again.status_code == 409


async def test_lines_wait_behind_all_others_and_leave_slots_free(world: Batching) -> None:
    [thinker] = world.stages.thinker
    thinker.engine.may_step.clear()
    try:
        made = await world.create([line(f"line-{index}") for index in range(10)])
        await wait_until(lambda: len(thinker.engine.inside) == 3)  # of 4 slots
        asking = asyncio.create_task(world.client.post(CHAT, json=HELLO))
        await wait_until(lambda: len(thinker.engine.inside) == 4)
    finally:
        thinker.engine.may_step.set()
    assert (await asking).status_code == 200
    assert (await world.ended(made["id"]))["request_counts"]["completed"] == 10
    assert {call.context.priority for call in thinker.calls} == {PriorityClass.ORDINARY, PriorityClass.BATCH}


async def test_a_line_whose_worker_failed_is_run_again(world: Batching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.batches.lines._RETRY_S", 0.01)
    failing = [Act("raise", error=Fault("broken"))]
    world.stages.next_calls("thinker", *failing)
    done = await world.ended((await world.create([line("a"), line("b")]))["id"])
    assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    monkeypatch.setattr("services.gateway.batches.lines.MAX_FAILURES", 2)
    world.stages.next_calls("thinker", *failing * 2)
    done = await world.ended((await world.create([line("a")]))["id"])
    [wrong] = await world.lines_of(done["error_file_id"])
    assert wrong["response"]["status_code"] == 500


async def test_what_a_batch_leaves_in_the_store_is_its_files(world: Batching) -> None:
    made = await world.create([line("a")])
    done = await world.ended(made["id"])
    await wait_until(lambda: not [name for name in world.objects if name.startswith("results/")])
    for id in (done["input_file_id"], done["output_file_id"]):
        assert f"files/{id}" in world.objects
        assert (await world.client.delete(f"/v1/files/{id}")).json() == {"id": id, "object": "file", "deleted": True}
        assert (await world.client.get(f"/v1/files/{id}")).status_code == 404
    gone = {f"files/{done['input_file_id']}", f"files/{done['output_file_id']}"}
    await wait_until(lambda: not gone & set(world.objects))


async def test_an_upload_is_refused_with_its_field(world: Batching) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"data": {"purpose": "batch"}, "files": {"other": ("a", b"x")}}, "other"),
        ({"files": {"purpose": (None, "batch")}}, "file"),
        ({"data": {"purpose": "batch"}, "files": {"file": ("a", b"")}}, "file"),
        ({"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x")}}, "purpose"),
        ({"data": {}, "files": {"file": ("a", b"x")}}, "purpose"),
        (
            {
                "data": {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1"},
                "files": {"file": ("a", b"x")},
            },
            "expires_after[seconds]",
        ),
        (
            {"data": {"purpose": "batch", "expires_after[seconds]": "3600"}, "files": {"file": ("a", b"x")}},
            "expires_after[anchor]",
        ),
    ]
    for given, param in wrong:
        refused = await world.client.post("/v1/files", **given)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
    assert (await world.client.get("/v1/files?limit=0")).json()["error"]["param"] == "limit"
    held = await world.client.post(
        "/v1/batches", json={"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}
    )
    assert (held.status_code, held.json()["error"]["param"]) == (404, "input_file_id")


async def test_a_file_may_expire(world: Batching) -> None:
    more = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = (await world.upload(line("a"), **more)).json()
    assert file["expires_at"] - file["created_at"] == 3600
    assert json.loads((await world.client.get(f"/v1/files/{file['id']}/content")).text)["custom_id"] == "a"
