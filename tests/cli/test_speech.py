"""`antiphon speak` and `transcribe`, in the wire forms of OpenAI's API."""

from __future__ import annotations

import base64
import json
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

from tests.cli.api_server import MODEL, ApiServer, Reply, Request, events, json_reply, refusal
from tests.cli.conftest import Antiphon
from tests.cli.terminal import Terminal
from tests.cli.test_chat import PCM, read_wav
from tests.cli.test_chat import spoken as said


def form(request: Request) -> dict[str, bytes]:
    """Return the fields of a multipart request; the file as `file`, its name as `filename`, its type as `type`."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + request.body, policy=policy.HTTP)
    fields: dict[str, bytes] = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        fields[name] = part.get_payload(decode=True)  # pyright: ignore[reportArgumentType]
        if filename := part.get_filename():
            fields |= {"filename": filename.encode(), "type": part.get_content_type().encode()}
    return fields


def test_a_text_is_spoken_into_a_file(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    api.models = [{"id": MODEL, "default_voice": "ethan"}]
    api.will(spoken(PCM[:7], PCM[7:]), Reply(b"an mp3"))  # another server may know no events
    ended = antiphon("speak", "Hello.", "-o", str(tmp_path / "a.wav"), "--url", api.url)
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    assert read_wav(tmp_path / "a.wav") == (1, 2, 24_000, PCM)
    more = ("--voice", "chelsie", "--speed", "1.5", "--instructions", "Whisper.")
    assert antiphon("speak", "-o", str(tmp_path / "a.mp3"), *more, "--url", api.url, stdin="Hello.\n").status == 0
    assert (tmp_path / "a.mp3").read_bytes() == b"an mp3"
    assert [request.path for request in api.requests] == ["/v1/audio/speech"] * 2
    first, second = api.asked()
    assert first == {
        "model": MODEL,
        "input": "Hello.",
        "voice": "ethan",
        "response_format": "pcm",
        "stream_format": "sse",
    }
    assert second == {
        "model": MODEL, "input": "Hello.\n", "voice": "chelsie", "response_format": "mp3", "speed": 1.5,
        "instructions": "Whisper.", "stream_format": "sse",
    }  # fmt: skip


def spoken(*parts: bytes, **done: Any) -> Reply:
    deltas = [{"type": "speech.audio.delta", "audio": base64.b64encode(part).decode()} for part in parts]
    return events(*deltas, {"type": "speech.audio.done", "usage": {}, **done}, done=False)


def test_a_cut_speech_says_so_and_names_the_limit(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    api.will(
        spoken(PCM, finish_reason="length", antiphon_limit="audio_out_ms_per_minute"),
        spoken(PCM, finish_reason="length"),
    )
    for named in (", audio_out_ms_per_minute", ""):
        ended = antiphon("speak", "Hello.", "-o", str(tmp_path / "a.wav"), "--url", api.url)
        assert ended.status == 0
        assert ended.err == f"The speech reached a limit and is cut off there (finish_reason length{named}).\n"
        assert read_wav(tmp_path / "a.wav")[3] == PCM


def test_programs_get_what_the_end_of_a_speech_tells(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    path = str(tmp_path / "a.wav")
    api.will(spoken(PCM, usage={"output_tokens": 3}, antiphon_spoken_again=1), Reply(b"a wav"))
    ended = antiphon("speak", "Hello.", "-o", path, "--json", "--url", api.url)
    assert json.loads(ended.out) == {"file": path, "usage": {"output_tokens": 3}, "antiphon_spoken_again": 1}
    assert read_wav(tmp_path / "a.wav")[3] == PCM
    ended = antiphon("speak", "Hello.", "-o", path, "--json", "--url", api.url)  # of a server without events
    assert (ended.status, json.loads(ended.out)) == (0, {"file": path})
    ended = antiphon("speak", "Hello.", "--json", "--url", api.url)
    assert (ended.status, ended.err) == (2, "--json tells of a file. Name it: -o speech.wav\n")


def test_speech_that_no_longer_followed_its_text_is_told(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    api.will(spoken(PCM, antiphon_derailment="silence", antiphon_spoken_again=2), spoken(PCM, antiphon_spoken_again=1))
    for told in ("The speech no longer followed its text (silence) and ends there.\n", ""):
        ended = antiphon("speak", "Hello.", "-o", str(tmp_path / "a.wav"), "--url", api.url)
        assert (ended.status, ended.err) == (0, told)
        assert read_wav(tmp_path / "a.wav")[3] == PCM
    chunks = [{**chunk, "antiphon_derailment": "silence"} if chunk.get("usage") else chunk for chunk in said("Hello")]
    api.will(events(*chunks))
    ended = antiphon("chat", "hi", "-o", str(tmp_path / "b.wav"), "--url", api.url)
    assert ended.err == "The speech no longer followed its text (silence) and ends there.\n"


def test_a_speech_that_breaks_off_leaves_no_file(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    delta = {"type": "speech.audio.delta", "audio": base64.b64encode(PCM).decode()}
    error = {"error": {"message": "The server is shutting down.", "code": "unavailable"}}
    api.will(events(delta, done=False), events(delta, error, done=False))
    for told in ("The connection ended before the speech did.\n", "The server is shutting down. (code unavailable)\n"):
        ended = antiphon("speak", "Hello.", "-o", str(tmp_path / "a.wav"), "--url", api.url)
        assert (ended.status, ended.err) == (1, told)
        assert list(tmp_path.iterdir()) == []


def test_a_refused_speech_leaves_no_file(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    api.will(refusal(400, "The voice 'x' does not exist.", "unknown_voice"))
    ended = antiphon("speak", "Hello.", "--voice", "x", "-o", str(tmp_path / "a.wav"), "--url", api.url)
    assert (ended.status, ended.err) == (1, "The voice 'x' does not exist. (code unknown_voice, request req-1)\n")
    assert list(tmp_path.iterdir()) == []


def test_a_transcript_appears_as_it_comes(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(PCM)
    deltas = ({"type": "transcript.text.delta", "delta": text} for text in ("What is", " it?"))
    api.will(events(*deltas, {"type": "transcript.text.done", "text": "What is it?"}, done=False))
    ended = antiphon(
        *("transcribe", str(tmp_path / "a.wav"), "--language", "en", "--prompt", "Qwen", "--temperature", "0"),
        *("--url", api.url),
    )
    assert (ended.status, ended.out, ended.err) == (0, "What is it?\n", "")
    (request,) = api.requests
    assert request.path == "/v1/audio/transcriptions"
    assert form(request) == {
        "model": MODEL.encode(), "response_format": b"json", "language": b"en", "prompt": b"Qwen",
        "temperature": b"0.0", "stream": b"true", "chunking_strategy": b"auto", "file": PCM, "filename": b"a.wav",
        "type": b"audio/x-wav",
    }  # fmt: skip


def test_progress_of_a_long_recording_is_no_part_of_its_text(
    api: ApiServer, antiphon: Antiphon, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(PCM)
    progress = {"type": "antiphon.progress", "transcribed_s": 1.5, "recording_s": 3.0}
    for as_json, shown in (((), "Two\n"), (("--json",), '"text": "Two"}\n')):
        deltas = ({"type": "transcript.text.delta", "delta": text} for text in ("T", "wo"))
        api.will(events(progress, *deltas, progress, {"type": "transcript.text.done", "text": "Two"}, done=False))
        ended = antiphon("transcribe", str(tmp_path / "a.wav"), *as_json, "--url", api.url)
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.endswith(shown)


def test_several_recordings_are_told_apart(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    first, second = tmp_path / "a.wav", tmp_path / "b.mp3"
    first.write_bytes(b"a")
    second.write_bytes(b"b")
    # A model that cannot stream answers at once.
    api.will(*(json_reply({"text": text}) for text in ("One.", "Two.", "One.", "Two.")))
    assert antiphon("transcribe", str(first), str(second), "--url", api.url).out == f"{first}:\nOne.\n{second}:\nTwo.\n"
    lines = antiphon("transcribe", str(first), str(second), "--json", "--url", api.url).out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file": str(first), "text": "One."},
        {"file": str(second), "text": "Two."},
    ]
    assert [form(request)["file"] for request in api.requests] == [b"a", b"b", b"a", b"b"]


def test_an_upload_is_sent_whole_again(api: ApiServer, antiphon: Antiphon, tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "a.wav").write_bytes(PCM)
    api.will(refusal(429, "Busy.", "queue_full", retry_after="1"), json_reply({"text": "One."}))
    ended = antiphon("transcribe", str(tmp_path / "a.wav"), "--url", api.url)
    assert (ended.status, ended.out, waits) == (0, "One.\n", [1.0])
    assert [form(request)["file"] for request in api.requests] == [PCM, PCM]


def test_a_transcript_that_a_limit_cut_says_so(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    done = {"type": "transcript.text.done", "text": "What", "finish_reason": "length"}
    api.will(events({"type": "transcript.text.delta", "delta": "What"}, done, done=False))
    ended = antiphon("transcribe", str(tmp_path / "a.wav"), "--url", api.url)
    assert (ended.status, ended.out.strip()) == (0, "What")
    assert "cut off" in ended.err


def test_half_a_transcript_is_an_error(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(PCM)
    api.will(events({"type": "transcript.text.delta", "delta": "What"}, done=False))
    ended = antiphon("transcribe", str(tmp_path / "a.wav"), "--url", api.url)
    assert (ended.status, ended.out) == (1, "What\n")
    assert ended.err == "The connection ended before the text did.\n"


def test_a_person_sees_the_upload_and_then_the_text(api: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(PCM * 100)
    deltas = ({"type": "transcript.text.delta", "delta": text} for text in ("What is", " it?"))
    api.will(events(*deltas, {"type": "transcript.text.done", "text": "What is it?"}, done=False))
    with Terminal("transcribe", str(tmp_path / "long.wav"), "--url", api.url) as terminal:
        terminal.until("long.wav ━")
        terminal.until("/1.0 MB")
        terminal.until("What is it?\n")
        assert terminal.ended() == 0
    assert form(api.requests[0])["file"] == PCM * 100
