"""Measure what encoding a spoken answer costs a gateway, format by format.

    python -m bench.audio_formats [--json bench/results/audio_formats.json]

For each format: the processor's time for one frame of the talker's codec (80 ms of speech), the time to open an
encoder, how much speech must come before the first bytes, the size of a stream, and the memory of an encoder in use.
Times are the least of five runs, to exclude other work of the machine.
"""

from __future__ import annotations

import gc
import math
import time
from array import array
from pathlib import Path
from typing import Any

from bench.machine import machine
from bench.report import arguments_parser, report
from services.gateway.audio.encoders import Encoder, encoder_for
from services.gateway.audio.formats import CODECS

RATE = 24_000
FRAME_SAMPLES = 1920
FRAMES = 250
ENCODERS = 50


def speech() -> list[bytes]:
    """Return frames of something like a voice: a tone with overtones that rises, falls and pauses."""
    samples, phase = array("h"), 0.0
    for i in range(FRAMES * FRAME_SAMPLES):
        phase += 2 * math.pi * (140 + 60 * math.sin(2 * math.pi * 0.7 * i / RATE)) / RATE
        loudness = max(math.sin(2 * math.pi * 1.3 * i / RATE), 0.0)
        samples.append(int(6000 * loudness * sum(math.sin(n * phase) / n for n in (1, 2, 3, 5, 8))))
    data = samples.tobytes()
    size = 2 * FRAME_SAMPLES
    return [data[at : at + size] for at in range(0, len(data), size)]


def one_run(audio_format: str, frames: list[bytes]) -> dict[str, float]:
    began_s = time.process_time()
    encoder = encoder_for(audio_format, RATE, streamed=True)
    opened_s = time.process_time()
    sizes = [len(encoder.add(frame)) for frame in frames]
    encoded_s = time.process_time()
    size_bytes = sum(sizes) + len(encoder.finish())
    encoder.close()
    return {
        "frame_us": round((encoded_s - opened_s) / len(frames) * 1e6),
        "open_us": round((opened_s - began_s) * 1e6),
        "first_bytes_after_frames": next(n for n, size in enumerate(sizes, 1) if size),
        "kbit_per_s": round(size_bytes * 8 / (len(frames) * FRAME_SAMPLES / RATE) / 1000, 1),
    }


def encoder_kb(audio_format: str, frames: list[bytes]) -> int:
    """Return what the process's memory grows by for each encoder in use."""
    gc.collect()
    before_bytes, encoders = _resident_bytes(), list[Encoder]()
    for _ in range(ENCODERS):
        encoder = encoder_for(audio_format, RATE, streamed=True)
        for frame in frames[:25]:
            encoder.add(frame)
        encoders.append(encoder)
    grown_bytes = _resident_bytes() - before_bytes
    for encoder in encoders:
        encoder.close()
    return round(grown_bytes / ENCODERS / 1024)


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    arguments = arguments_parser(__doc__ or "").parse_args()
    frames, rows = speech(), dict[str, dict[str, Any]]()
    for audio_format in CODECS:
        runs = [one_run(audio_format, frames) for _ in range(5)]
        least = {key: min(run[key] for run in runs) for key in runs[0]}
        rows[audio_format] = {**least, "encoder_kb": encoder_kb(audio_format, frames)}
    report({"machine": machine(), "formats": rows}, arguments.json)


if __name__ == "__main__":
    main()
