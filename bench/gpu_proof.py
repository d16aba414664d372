"""Prove the talker's GPU path in ten minutes on a machine with torch, triton and transformers. Downloads nothing.

    python -m bench.gpu_proof [--json bench/results/gpu_proof.json]

Needs neither vLLM nor gRPC nor Redis. A section that fails does not stop the others, and each has a time limit. The
exit status is 0 if all pass, else 1. Without a GPU it runs on the CPU at tiny sizes, which shows only that it works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.proof.runner import Section, run_sections, serve_child
from bench.report import report

TOTAL_S = 570.0
LENGTHS = (320, 600, 2_100, 8_200)
"""Tokens in a stream's cache."""


def sections_for(device: str) -> list[Section]:
    """Return the sections of a device, the cheap ones first. Each section's modules are imported in its process."""
    on_gpu = device.startswith("cuda")
    size = "released" if on_gpu else "small"
    common = [
        Section("machine", 30, partial(_run, "machine", "describe", device)),
        Section("noise", 60, partial(_run, "exact", "noise", device)),
        Section("parity in float32", 120, partial(_run, "exact", "parity", device)),
        Section("batching in float32", 120, partial(_run, "exact", "batching", device)),
        Section("attention in place", 60, partial(_run, "attention", "attention", device, LENGTHS, (1, 4, 64))),
        Section("pause and resume", 30, partial(_run, "attention", "pausing", device)),
        Section("order of CUDA streams", 180, partial(_run, "exact", "ordering", device)),
        Section("load", 150, partial(_run, "load", "load", device, size if on_gpu else "many experts")),
    ]
    if not on_gpu:
        return [
            *common,
            Section("steps", 60, partial(_run, "speed", "steps", device, size, LENGTHS, (1, 3), 2)),
            Section("streams", 60, partial(_run, "speed", "streams", device, size, (20, 300), (1, 2), 0.2)),
        ]
    compiler = partial(_run, "speed", "compiler", device, size, (1, 16), 20)
    return [
        *common,
        Section("steps", 240, partial(_run, "speed", "steps", device, size, LENGTHS, (1, 16, 64, 256, 512), 12)),
        Section("streams", 200, partial(_run, "speed", "streams", device, size, (200, 2_000), (1, 64, 512), 2.0)),
        Section("compiler as it is", 120, compiler, {"TORCHINDUCTOR_ENABLE_PDL": "0"}),
        Section("compiler with PDL", 120, compiler, {"TORCHINDUCTOR_ENABLE_PDL": "1"}),
        Section("coordinate descent", 180, compiler, {"TORCHINDUCTOR_COORDINATE_DESCENT_TUNING": "1"}),
    ]


def _run(module: str, function: str, device: str, *arguments: Any) -> Mapping[str, Any]:
    from importlib import import_module

    import torch

    return getattr(import_module(f"bench.proof.{module}"), function)(torch.device(device), *arguments)


def has_gpu() -> bool:
    try:
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return "GPU 0" in listing.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="The talker's GPU path, proved in ten minutes.")
    parser.add_argument("--device", default="", help="cuda, cuda:1 or cpu; by default a GPU where there is one")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument(
        "--total-s", type=float, default=TOTAL_S, help="time limit of all sections together (default %(default)s)"
    )
    parser.add_argument("--child", nargs="+", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = arguments.device or ("cuda" if has_gpu() else "cpu")
    sections = sections_for(device)
    if arguments.child:
        descriptor, *names = arguments.child
        serve_child(int(descriptor), [section for section in sections if section.name in names])
        os._exit(0)  # a hung device must not block the exit
    began_s = time.monotonic()
    command = [sys.executable, "-m", "bench.gpu_proof", "--device", device]
    results = run_sections(command, sections, arguments.total_s, lambda line: print(line, file=sys.stderr, flush=True))
    holds = all(result["status"] == "ok" for result in results.values())
    figures = {
        "command": f"python -m bench.gpu_proof --device {device}",
        "device": device,
        "proves_a_gpu": holds and device.startswith("cuda"),
        "holds": holds,
        "seconds": round(time.monotonic() - began_s, 1),
        "sections": results,
    }
    report(figures, arguments.json)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
