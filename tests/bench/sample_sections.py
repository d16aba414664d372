"""Sections for the runner's tests: `python -m tests.bench.sample_sections --child DESCRIPTOR NAME…`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from bench.proof.runner import Section, WrongError, serve_child


def good() -> Mapping[str, Any]:
    return {"process": os.getpid(), "mode": os.environ.get("SAMPLE_MODE", "")}


def wrong() -> Mapping[str, Any]:
    raise WrongError("the numbers differ", {"apart": 3})


def raising() -> Mapping[str, Any]:
    raise ValueError("no such thing")


def dying() -> Mapping[str, Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def hanging() -> Mapping[str, Any]:
    worker = subprocess.Popen(["sleep", "1000"])  # like the compiler's workers, it must end with the section
    sys.stderr.write(f"worker {worker.pid}\n")
    time.sleep(1000)
    return {}


SECTIONS = [
    Section("good", 20, good),
    Section("wrong", 20, wrong),
    Section("after wrong", 20, good),
    Section("raising", 20, raising),
    Section("dying", 20, dying),
    Section("hanging", 0.2, hanging),
    Section("after hanging", 20, good),
    Section("with a mode", 20, good, {"SAMPLE_MODE": "on"}),
]

if __name__ == "__main__":
    names = sys.argv[3:]
    serve_child(int(sys.argv[2]), [section for section in SECTIONS if section.name in names])
