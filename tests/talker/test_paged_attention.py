"""The GPU's decode attention, on a CPU: triton interprets its kernels and compiles them; no GPU runs them here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antiphon" / "triton"

pytestmark = pytest.mark.skipif(
    not CACHE.is_dir() and os.environ.get("CI") != "true", reason="no triton; tests/tools/triton.sh installs it"
)


def run(*check: str, interpret: bool = False) -> None:
    """In a process of its own: triton is in none but these, and is interpreted or not from its import on."""
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), ".", "protos", str(CACHE)])
    environment = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.talker.triton_checks", *check], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_blocks_read_in_place_give_the_attention_of_the_cpu(tiny_instruct: Path) -> None:
    run("interpret", str(tiny_instruct), interpret=True)


def test_the_kernels_compile_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run("compile")
