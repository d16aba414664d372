"""What the client says, and the status with which it ends, where it gets no answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from services.cli.client.retry import LONGEST_WAIT_S, retry_delay_s
from tests.cli.api_server import ApiServer, Reply, answers, chat_chunks, events, json_reply, refusal
from tests.cli.conftest import Antiphon
from tests.fixtures.ports import free_port
from tests.fixtures.wait import HANGS_AFTER_S


def test_a_refusal_is_told_with_its_code_and_request(api: ApiServer, antiphon: Antiphon) -> None:
    api.will(refusal(400, "Invalid 'temperature'.", "invalid_value"))
    ended = antiphon("chat", "hello", "--url", api.url)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "Invalid 'temperature'. (code invalid_value, request req-1)\n"


def test_a_missing_key_is_asked_for(api: ApiServer, antiphon: Antiphon) -> None:
    api.will(refusal(401, "No API key.", "invalid_api_key"))
    assert "ANTIPHON_API_KEY" in antiphon("chat", "hello", "--url", api.url).err


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(
    api: ApiServer, antiphon: Antiphon, waits: list[float], status: int
) -> None:
    api.will(
        refusal(status, "Busy.", "queue_full", retry_after="2"),
        refusal(status, "Busy.", "queue_full", retry_after_ms="500", retry_after="9"),
        answers("yes"),
    )
    ended = antiphon("chat", "hello", "--url", api.url)
    assert (ended.status, ended.out, waits) == (0, "yes\n", [2.0, 0.5])
    assert "Busy. (code queue_full, request req-1) Trying again in 2 s …" in ended.err
    first, *others = api.asked()
    assert others == [first, first]


def test_tries_are_bounded(api: ApiServer, antiphon: Antiphon, waits: list[float]) -> None:
    api.will(*[refusal(503, "Busy.", "no_worker", retry_after="1")] * 9)
    ended = antiphon("chat", "hello", "--url", api.url, "--retries", "2")
    assert (ended.status, waits, len(api.requests)) == (1, [1.0, 1.0], 3)
    assert ended.err.endswith("Busy. (code no_worker, request req-1)\n")


@pytest.mark.parametrize(
    ("status", "headers", "delay_s"),
    [
        (429, {}, None),
        (500, {"retry-after": "1"}, None),
        (503, {"retry-after": "1", "x-should-retry": "false"}, None),
        (503, {"retry-after": "soon"}, None),
        (503, {"retry-after": "-1"}, None),
        (503, {"retry-after": str(LONGEST_WAIT_S + 1)}, None),
        (503, {"retry-after": str(LONGEST_WAIT_S)}, LONGEST_WAIT_S),
        (429, {"retry-after": format_datetime(datetime.now(UTC) - timedelta(days=1))}, 0.0),
    ],
)
def test_only_a_server_that_asks_for_it_is_waited_for(
    status: int, headers: dict[str, str], delay_s: float | None
) -> None:
    assert retry_delay_s(status, headers) == delay_s


def test_an_error_in_a_stream_ends_it(api: ApiServer, antiphon: Antiphon) -> None:
    error = {"message": "The workers were lost.", "code": "worker_lost", "type": "server_error", "param": None}
    api.will(events(*chat_chunks("so far", finish_reason=None), {"error": error}, done=False))
    ended = antiphon("chat", "hello", "--url", api.url)
    assert (ended.status, ended.out) == (1, "so far\n")
    assert ended.err == "The workers were lost. (code worker_lost)\n"


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (events(*chat_chunks("so far", finish_reason=None), done=False), "The connection ended before the answer did."),
        (Reply(b'data: {"choices": []}\n\n', breaks=True), "broke the answer off"),
        (Reply(b"data: nonsense\n\n"), "does not speak OpenAI's API"),
        (json_reply({"hello": "world"}), "The connection ended before the answer did."),
        (Reply(b"<html>", 502), "answered 502 Bad Gateway"),
    ],
)
def test_half_an_answer_is_an_error(api: ApiServer, antiphon: Antiphon, reply: Reply, told: str) -> None:
    api.will(reply)
    ended = antiphon("chat", "hello", "--url", api.url)
    assert ended.status == 1
    assert told in ended.err


def test_another_kind_of_server_is_noticed(api: ApiServer, antiphon: Antiphon) -> None:
    api.will(json_reply({"hello": "world"}))
    ended = antiphon("chat", "hello", "--json", "--url", api.url)
    assert (ended.status, ended.out) == (1, "")
    assert "does not speak OpenAI's API: its answer to /v1/chat/completions has no 'choices'" in ended.err


def test_a_server_that_is_not_there_is_named(antiphon: Antiphon) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = antiphon("chat", "hello", "--url", url)
    assert ended.status == 1
    assert ended.err == (f"{url} does not answer (ConnectError). Name a running server with --url or ANTIPHON_URL.\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("chat", "hi", "--url", "localhost:8901"), "'localhost:8901' is not a server's URL"),
        (("chat", "hi", "--url", "http://"), "is not a server's URL"),
        (("chat", "hi", "--key", "schlüssel"), "characters that no key has"),
        (("chat", "hi", "--audio", "no/such.wav"), "no/such.wav cannot be read: No such file or directory."),
        (("chat", "hi", "--image", "."), "cannot be read: Is a directory."),
        (("chat", "hi", "-o", "answer.xyz"), "ends with .wav, .pcm, .mp3, .opus, .ogg, .flac, .aac"),
        (("chat", "  "), "There is nothing to ask"),
        (("chat",), "There is nothing to ask"),
        (("speak", ""), "There is nothing to say"),
        (("transcribe", "no/such.wav"), "no/such.wav cannot be read"),
        (("chat", "hi", "--temperature", "warm"), "invalid float value: 'warm'"),
        (("sing",), "invalid choice: 'sing'"),
    ],
)
def test_a_wrong_command_is_reported_before_a_server_is_asked(
    antiphon: Antiphon, arguments: tuple[str, ...], told: str
) -> None:
    ended = antiphon(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert told in ended.err


def test_a_server_of_several_models_wants_a_name(api: ApiServer, antiphon: Antiphon) -> None:
    api.models = [{"id": "a-instruct"}, {"id": "a-thinking"}, {"id": "a-captioner"}]
    ended = antiphon("chat", "hello", "--url", api.url)
    assert ended.status == 2
    assert ended.err == f"{api.url} serves several models. Name one with --model: a-instruct, a-thinking.\n"
    api.models = [{"id": "a-instruct"}]
    assert "serves no model that captions sounds" in antiphon("caption", __file__, "--url", api.url).err


def test_the_key_and_the_url_come_from_the_environment(
    api: ApiServer, antiphon: Antiphon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_URL", f"{api.url}/v1/")
    monkeypatch.setenv("ANTIPHON_API_KEY", "sk-mine\n")
    api.will(answers("yes"))
    assert antiphon("chat", "hello").out == "yes\n"
    assert api.requests[0].path == "/v1/chat/completions"
    assert api.requests[0].headers["authorization"] == "Bearer sk-mine"


def started(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start `antiphon` as a process."""
    command = [sys.executable, "-m", "services.cli", *arguments]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environ)


def test_ctrl_c_ends_the_request_at_once(api: ApiServer) -> None:
    api.will(events(*chat_chunks("so far", finish_reason=None), done=False, hangs=True))
    with started("chat", "hello", "--url", api.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(6) == b"so far"
        process.send_signal(signal.SIGINT)
        assert api.left.wait(HANGS_AFTER_S)
        assert process.wait(HANGS_AFTER_S) == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_reader_that_leaves_is_no_error_to_report(api: ApiServer, how: tuple[str, ...]) -> None:
    api.will(json_reply({"choices": []}) if how else answers("yes"))
    read_end, write_end = os.pipe()
    os.close(read_end)
    with started("chat", "hello", *how, "--url", api.url, stdout=write_end) as process:
        os.close(write_end)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(HANGS_AFTER_S) == 1
