"""`antiphon batch`, in the wire forms of OpenAI's API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.api_server import ApiServer, Reply, json_reply
from tests.cli.conftest import Antiphon
from tests.cli.test_speech import form

LINE = '{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {}}\n'


@pytest.fixture(autouse=True)
def _no_waits(waits: list[float]) -> None:  # pyright: ignore[reportUnusedFunction]
    """Let nothing wait: `time` is one module for all."""


def batch(status: str, total: int = 0, completed: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    counts = {"total": total, "completed": completed, "failed": failed}
    fields = {"id": "batch_1", "endpoint": "/v1/responses", "output_file_id": None, "error_file_id": None}
    return {**fields, "status": status, "request_counts": counts, **more}


def test_a_file_is_submitted(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(LINE)
    api.will(json_reply({"id": "file-1"}), json_reply(batch("validating")))
    ended = antiphon("batch", "submit", str(path), "--window", "2h", "--metadata", "a=b", "--url", api.url)
    assert (ended.status, ended.out, ended.err) == (0, "batch_1\n", "")
    assert [request.path for request in api.requests] == ["/v1/files", "/v1/batches"]
    assert form(api.requests[0]) | {"type": b""} == {
        "purpose": b"batch", "file": LINE.encode(), "filename": b"in.jsonl", "type": b"",
    }  # fmt: skip
    assert api.requests[1].json == {
        "input_file_id": "file-1", "endpoint": "/v1/responses", "completion_window": "2h", "metadata": {"a": "b"},
    }  # fmt: skip


def test_a_batch_is_watched_to_its_end(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(LINE)
    over = batch("completed", 3, 2, 1)
    states = [batch("validating"), batch("in_progress", 3, 1), over]
    api.gets["/v1/batches/batch_1"] = list(map(json_reply, states))
    api.will(json_reply({"id": "file-1"}), json_reply(batch("validating")))
    ended = antiphon("batch", "submit", str(path), "--watch", "--url", api.url)
    assert (ended.status, ended.out) == (0, "completed: 2 of 3 lines completed, 1 failed\n")
    ended = antiphon("batch", "watch", "batch_1", "--json", "--url", api.url)
    assert (ended.status, json.loads(ended.out)) == (0, over)
    wrong = [{"code": "invalid_json_line", "message": "It is no JSON.", "line": 2}]
    api.gets["/v1/batches/batch_1"] = [json_reply(batch("failed", errors={"data": wrong}))]
    ended = antiphon("batch", "watch", "batch_1", "--url", api.url)
    assert (ended.status, ended.err) == (1, "line 2: It is no JSON. (code invalid_json_line)\n")


def test_results_are_fetched(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    done = batch("completed", 2, 1, 1, output_file_id="file-2", error_file_id="file-3")
    api.gets = {
        "/v1/batches/batch_1": [json_reply(done)],
        "/v1/files/file-2/content": [Reply("grüße\n".encode())],
        "/v1/files/file-3/content": [Reply(b"wrong\n")],
    }
    ended = antiphon("batch", "fetch", "batch_1", "--url", api.url)
    assert (ended.status, ended.out, ended.err) == (0, "grüße\n", "1 lines failed: --errors FILE writes why.\n")
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    ended = antiphon(
        *("batch", "fetch", "batch_1", "-o", str(out), "--errors", str(errors), "--json", "--url", api.url)
    )
    assert (ended.status, json.loads(ended.out), ended.err) == (0, done, "")
    assert (out.read_text(), errors.read_text()) == ("grüße\n", "wrong\n")
    api.gets["/v1/batches/batch_1"] = [json_reply(batch("in_progress"))]
    ended = antiphon("batch", "fetch", "batch_1", "--url", api.url)
    assert ended.status == 1
    assert "antiphon batch watch batch_1" in ended.err


def test_batches_are_listed_and_cancelled(api: ApiServer, antiphon: Antiphon) -> None:
    first, second = batch("in_progress", 3, 1), {**batch("failed"), "id": "batch_2"}
    api.gets = {
        "/v1/batches?limit=100": [json_reply({"data": [first], "has_more": True})],
        "/v1/batches?limit=100&after=batch_1": [json_reply({"data": [second], "has_more": False})],
    }
    listed = antiphon("batch", "list", "--url", api.url).out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["batch_1", "in_progress"], ["batch_2", "failed"]]
    api.will(json_reply(batch("cancelling")))
    assert antiphon("batch", "cancel", "batch_1", "--url", api.url).out == "cancelling\n"
    assert api.requests[0].path == "/v1/batches/batch_1/cancel"


def test_a_file_that_no_batch_takes_is_refused(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"url": "/v1/embeddings"}\n')
    ended = antiphon("batch", "submit", str(path), "--url", api.url)
    assert (ended.status, api.requests) == (2, [])
    assert "/v1/chat/completions" in ended.err
    assert antiphon("batch", "submit", str(tmp_path / "none"), "--url", api.url).status == 2
