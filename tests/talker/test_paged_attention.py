"""The GPU's decode attention on a CPU. Triton interprets and compiles its kernels; no GPU runs them here."""

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
    """Run one check in a child process. Only these processes import triton, which reads TRITON_INTERPRET at import."""
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), ".", "protos", str(CACHE)])
    environment = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.talker.triton_checks", *check], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_paged_kernel_equals_attention_on_the_cpu(tiny_instruct: Path) -> None:
    run("interpret", str(tiny_instruct), interpret=True)


def test_the_kernels_compile_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run("compile")
