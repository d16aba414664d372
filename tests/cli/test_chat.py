"""`antiphon chat`, `caption` and `models`, against a server that records what it is asked."""

from __future__ import annotations

import base64
import json
import sys
import threading
import types
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.api_server import MODEL, ApiServer, answers, chat_chunks, events, json_reply
from tests.cli.conftest import Antiphon

PCM = bytes(range(256)) * 40


def spoken(*texts: str, pcm: bytes = PCM) -> list[dict[str, Any]]:
    """Return the chunks of a streamed answer in text and speech, the samples in two chunks."""
    half = len(pcm) // 2
    audio: list[dict[str, Any]] = [{"id": "audio-1", "transcript": ""}, *({"transcript": text} for text in texts)]
    audio += [{"data": base64.b64encode(part).decode()} for part in (pcm[:half], pcm[half:])]
    deltas = [{"choices": [{"index": 0, "delta": {"audio": each}, "finish_reason": None}]} for each in audio]
    return [*deltas, *chat_chunks()]


def read_wav(path: Path) -> tuple[int, int, int, bytes]:
    with wave.open(str(path), "rb") as file:
        samples = file.readframes(file.getnframes())
        return file.getnchannels(), file.getsampwidth(), file.getframerate(), samples


def test_an_answer_is_printed_alone(api: ApiServer, antiphon: Antiphon) -> None:
    api.will(answers("It is", " Paris.\u2028Yes."))
    ended = antiphon("chat", "What is the capital of France?", "--url", api.url)
    assert (ended.status, ended.out, ended.err) == (0, "It is Paris.\u2028Yes.\n", "")
    (asked,) = api.asked()
    assert asked == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "stream": True,
    }


def test_a_question_may_come_on_standard_input(api: ApiServer, antiphon: Antiphon) -> None:
    api.will(answers("yes"))
    assert antiphon("chat", "--url", api.url, stdin="Is it\nso?").out == "yes\n"
    assert api.requests[0].json["messages"] == [{"role": "user", "content": "Is it\nso?"}]


def test_media_keep_their_order(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    for name in ("a.png", "b.mp3", "c.mp4", "d.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    api.will(answers("yes"))
    ended = antiphon(
        *("chat", "See?", "--url", api.url, "--audio-in-video", "--system", "Be brief."),
        *("--image", str(tmp_path / "a.png"), "--audio", str(tmp_path / "b.mp3"), "--video", str(tmp_path / "c.mp4")),
        *("--image", str(tmp_path / "d.jpg"), "--audio", "https://example.org/e.wav"),
    )
    assert ended.status == 0
    (asked,) = api.asked()
    assert asked["use_audio_in_video"] is True
    system, user = asked["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(b'a.png').decode()}"}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"b.mp3").decode(), "format": "mp3"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{base64.b64encode(b'c.mp4').decode()}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(b'd.jpg').decode()}"}},
        {"type": "audio_url", "audio_url": {"url": "https://example.org/e.wav"}},
        {"type": "text", "text": "See?"},
    ]


def test_media_may_be_the_whole_question(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "question.wav").write_bytes(b"sound")
    api.will(answers("yes"))
    assert antiphon("chat", "", "--audio", str(tmp_path / "question.wav"), "--url", api.url).out == "yes\n"
    (part,) = api.requests[0].json["messages"][0]["content"]
    assert part["type"] == "input_audio"


def test_only_the_flags_that_are_given_are_sent(api: ApiServer, antiphon: Antiphon) -> None:
    api.will(answers("yes"))
    flags = ("--temperature", "0", "--top-k", "20", "--max-tokens", "5", "--seed", "7", "--stop", "a", "--stop", "b")
    antiphon("chat", "hello", "--url", api.url, "--model", "other", *flags)
    (asked,) = api.asked()
    known = {"model", "messages", "stream"}
    assert {name: value for name, value in asked.items() if name not in known} == {
        "temperature": 0.0, "top_k": 20, "max_tokens": 5, "seed": 7, "stop": ["a", "b"],
    }  # fmt: skip
    assert asked["model"] == "other"


def test_a_chain_of_thought_is_not_part_of_the_answer(api: ApiServer, antiphon: Antiphon) -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}, "finish_reason": None}]}
    api.will(events(thought, *chat_chunks("Yes.")))
    assert antiphon("chat", "hello", "--url", api.url).out == "Yes.\n"


def test_json_is_one_line_with_the_whole_answer(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "Oui, «é»\n"}
    whole = {"id": "c-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}}
    api.will(json_reply(whole))
    ended = antiphon("chat", "hello", "--json", "--url", api.url)
    assert ended.out.count("\n") == 1
    assert json.loads(ended.out) == whole
    assert "stream" not in api.requests[0].json

    audio = {"id": "audio-1", "data": base64.b64encode(b"a whole file").decode(), "transcript": "Oui."}
    api.will(json_reply({"choices": [{"index": 0, "message": {"audio": audio}}]}))
    ended = antiphon("chat", "hello", "--json", "-o", str(tmp_path / "new/a.mp3"), "--url", api.url)
    assert json.loads(ended.out)["choices"][0]["message"]["audio"] == {"id": "audio-1", "transcript": "Oui."}
    assert (tmp_path / "new/a.mp3").read_bytes() == b"a whole file"
    assert api.requests[1].json["audio"] == {"format": "mp3"}


def test_speech_is_saved_as_its_name_says(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    api.will(events(*spoken("Hel", "lo")), events(*spoken("Hello")))
    ended = antiphon("chat", "hello", "-o", str(tmp_path / "a.wav"), "--voice", "ethan", "--url", api.url)
    assert (ended.status, ended.out) == (0, "Hello\n")
    assert read_wav(tmp_path / "a.wav") == (1, 2, 24_000, PCM)
    antiphon("chat", "hello", "-o", str(tmp_path / "a.opus"), "--voice", "default", "--url", api.url)
    assert (tmp_path / "a.opus").read_bytes() == PCM
    first, second = api.asked()
    assert first["modalities"] == second["modalities"] == ["text", "audio"]
    assert first["audio"] == {"voice": "ethan", "format": "pcm16"}
    assert second["audio"] == {"format": "opus"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.opus", "a.wav"]


def test_half_a_speech_leaves_the_older_file(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"older")
    api.will(events(*spoken("Hel")[:-2], done=False))
    assert antiphon("chat", "hello", "-o", str(tmp_path / "a.wav"), "--url", api.url).status == 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


class SoundDevice(types.ModuleType):
    """Stands in for the package sounddevice: its stream plays at once, in a thread of its own as PortAudio does."""

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.PortAudioError = type("PortAudioError", (Exception,), {})
        self.CallbackStop = type("CallbackStop", (Exception,), {})
        self.played = b""
        self.opened: dict[str, Any] = {}
        self.absent = False

    def check_output_settings(self, **settings: Any) -> None:
        if self.absent:
            raise self.PortAudioError("Error querying device -1")

    def RawOutputStream(
        self, callback: Callable[..., None], finished_callback: Callable[[], None], **settings: Any
    ) -> Any:
        self.opened = settings

        def play() -> None:
            try:
                while True:
                    buffer = bytearray(2 * 100)
                    out = memoryview(buffer)
                    try:
                        callback(out, 100, None, None)
                    finally:
                        self.played += bytes(buffer)
            except self.CallbackStop:
                finished_callback()

        thread = threading.Thread(target=play, daemon=True)
        return types.SimpleNamespace(start=thread.start, close=lambda: None)


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> SoundDevice:
    module = SoundDevice()
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_speech_is_played_to_its_last_sample(api: ApiServer, antiphon: Antiphon, sounddevice: SoundDevice) -> None:
    pcm = bytes(range(1, 251)) * 41
    api.will(events(*spoken("Hello", pcm=pcm)))
    ended = antiphon("chat", "hello", "--voice", "chelsie", "--url", api.url)
    assert (ended.status, ended.out, ended.err) == (0, "Hello\n", "")
    # Silence stands in for what is not there yet; no byte of the speech itself is zero.
    assert sounddevice.played.replace(b"\0", b"") == pcm
    assert sounddevice.opened == {"samplerate": 24_000, "channels": 1, "dtype": "int16"}
    assert api.requests[0].json["audio"] == {"voice": "chelsie", "format": "pcm16"}


def test_without_a_player_the_server_is_not_asked(
    api: ApiServer, antiphon: Antiphon, sounddevice: SoundDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounddevice.absent = True
    ended = antiphon("chat", "hello", "--voice", "default", "--url", api.url)
    assert ended.status == 2
    assert ended.err == (
        "No sound can be played here: there is no sound device for it: Error querying device -1. "
        "Save the speech instead: -o answer.wav\n"
    )
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    ended = antiphon("chat", "hello", "--voice", "default", "--url", api.url)
    assert "pip install 'antiphon[player]'" in ended.err
    assert api.requests == []


def test_a_caption_is_the_captioners(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    for name in ("a.wav", "b.flac"):
        (tmp_path / name).write_bytes(name.encode())
    sounds = [str(tmp_path / "a.wav"), str(tmp_path / "b.flac")]
    api.models = [{"id": "omni-instruct"}, {"id": "omni-Captioner"}]
    api.will(answers("Rain."), answers("A dog."), json_reply({"choices": []}))
    ended = antiphon("caption", *sounds, "--url", api.url)
    assert (ended.status, ended.out) == (0, f"{sounds[0]}:\nRain.\n{sounds[1]}:\nA dog.\n")
    assert antiphon("caption", sounds[0], "--json", "--url", api.url).out == (
        json.dumps({"file": sounds[0], "choices": []}) + "\n"
    )
    for asked, data in zip(api.asked(), (b"a.wav", b"b.flac", b"a.wav"), strict=True):
        assert asked["model"] == "omni-Captioner"
        (part,) = asked["messages"][0]["content"]
        assert base64.b64decode(part["input_audio"]["data"]) == data


def test_a_captioner_tells_what_it_is(api: ApiServer, antiphon: Antiphon, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    api.models = [{"id": "omni", "kind": "instruct"}, {"id": "mine", "kind": "captioner"}]
    api.will(answers("Rain."), answers("Hello."))
    assert antiphon("caption", str(tmp_path / "a.wav"), "--url", api.url).out == "Rain.\n"
    assert antiphon("chat", "hello", "--url", api.url).out == "Hello.\n"
    assert [asked["model"] for asked in api.asked()] == ["mine", "omni"]


def test_models_are_a_table(api: ApiServer, antiphon: Antiphon) -> None:
    voices = {"kind": "instruct", "max_model_len": 32768, "voices": ["ethan", "chelsie"], "default_voice": "ethan"}
    api.models = [{"id": "omni", **voices}, {"id": "of-another-server"}]
    assert antiphon("models", "--url", api.url).out.splitlines() == [
        "ID                 KIND      MAX_MODEL_LEN  VOICES         DEFAULT_VOICE",
        "omni               instruct  32768          ethan,chelsie  ethan",
        "of-another-server  -         -              -              -",
    ]
    first, _ = antiphon("models", "--json", "--url", api.url).out.splitlines()
    assert json.loads(first) == {"id": "omni", **voices}
