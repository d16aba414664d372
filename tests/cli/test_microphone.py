"""Questions that are spoken into a microphone, which a stand-in for the package sounddevice has."""

from __future__ import annotations

import base64
import io
import sys
import types
import wave
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.api_server import ApiServer, answers
from tests.cli.conftest import Antiphon

PCM = bytes(range(256)) * 40
RATE = 44_100


class SoundDevice(types.ModuleType):
    """Its microphone hears `heard` at once, in two buffers."""

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.PortAudioError = type("PortAudioError", (Exception,), {})
        self.heard = PCM
        self.opened: dict[str, Any] = {}
        self.is_open = self.absent = False

    def query_devices(self, *, kind: str) -> dict[str, Any]:
        if self.absent:
            raise ValueError(f"No {kind} device matching None")
        return {"default_samplerate": float(RATE)}

    def RawInputStream(self, callback: Callable[..., None], **settings: Any) -> Any:
        self.opened = settings

        def start() -> None:
            self.is_open = True
            half = len(self.heard) // 2
            for part in filter(None, (self.heard[:half], self.heard[half:])):
                callback(memoryview(part), len(part) // 2, None, None)

        def close() -> None:
            self.is_open = False

        return types.SimpleNamespace(start=start, close=close)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SoundDevice:
    module = SoundDevice()
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def recording(part: dict[str, Any]) -> tuple[int, int, int, bytes]:
    """Return channels, bytes of a sample, rate and samples of a part with a recording."""
    assert (part["type"], part["input_audio"]["format"]) == ("input_audio", "wav")
    with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"])), "rb") as file:
        samples = file.readframes(file.getnframes())
        return file.getnchannels(), file.getsampwidth(), file.getframerate(), samples


def test_a_question_is_recorded_until_enter(api: ApiServer, antiphon: Antiphon, device: SoundDevice) -> None:
    api.will(answers("Fine."), answers("Fine."))
    for text in ((), ("What is said?",)):
        ended = antiphon("chat", "--microphone", *text, "--url", api.url, types="\n")
        assert (ended.status, ended.out, ended.err) == (0, "Fine.\n", "")
    assert device.opened == {"samplerate": RATE, "channels": 1, "dtype": "int16"}
    assert not device.is_open
    (alone,), (sound, text) = (asked["messages"][0]["content"] for asked in api.asked())
    assert recording(alone) == recording(sound) == (1, 2, RATE, PCM)
    assert text == {"type": "text", "text": "What is said?"}


def test_a_conversation_has_recordings(api: ApiServer, antiphon: Antiphon, device: SoundDevice) -> None:
    api.will(answers("Fine."), answers("Bye."))
    ended = antiphon("chat", "--url", api.url, types="/record\n\n\nhello\n")
    assert (ended.status, ended.err) == (0, "")
    first, second = (asked["messages"] for asked in api.asked())
    (part,) = first[0]["content"]
    assert recording(part) == (1, 2, RATE, PCM)
    assert second == [*first, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "hello"}]


def test_what_can_not_be_recorded_is_told_before_the_server_is_asked(
    api: ApiServer, antiphon: Antiphon, device: SoundDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(**typed: str) -> str:
        ended = antiphon("chat", "--microphone", "--url", api.url, **typed)
        assert ended.status == 2
        return ended.err

    assert told() == (
        "No sound can be recorded here: Enter ends a recording, and standard input is no terminal. "
        "Send a file instead: --audio question.wav\n"
    )
    device.heard = b""
    assert told(types="\n") == "Nothing was recorded. Speak, and then press Enter.\n"
    device.absent = True
    assert "the microphone does not open: No input device matching None" in told(types="\n")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "pip install 'antiphon[player]'" in told(types="\n")
    assert api.requests == []
