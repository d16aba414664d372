"""The Makefile's own checks, before Python runs. Installs nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import DOCS, ROOT
from tests.fixtures.wait import HANGS_AFTER_S


class Machine:
    """A machine without a virtual environment. Its Python only records an attempt to make one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.mark = folder / "installs"
        self.tool(
            "python", f'case "$*" in "-m venv"*) touch "{self.mark}"; exit 1;; esac\nexec "{sys.executable}" "$@"'
        )
        self.list_gpus("exit 9")

    def list_gpus(self, script: str) -> None:
        self.tool("nvidia-smi", script)

    def make(self, *arguments: str, python: str = "python") -> subprocess.CompletedProcess[str]:
        given = (f"VENV={self._folder / 'venv'}", f"PYTHON={self._folder / python}")
        # make passes its own flags and variables to its children.
        outer = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "GPU")
        environ = {name: value for name, value in os.environ.items() if name not in outer}
        environ["PATH"] = f"{self._folder}:{environ['PATH']}"
        command = ["make", *arguments, *given]
        return subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=HANGS_AFTER_S, check=False
        )

    def tool(self, name: str, script: str) -> None:
        path = self._folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("target", ["setup", "up", "demo", "test"])
@pytest.mark.parametrize(
    "listing", ["exit 9", "echo 'No devices found.'", "echo '  MIG 1g.10gb     Device  0: (UUID: …)'"]
)
def test_without_a_gpu_nothing_is_installed_for_one(machine: Machine, target: str, listing: str) -> None:
    machine.list_gpus(listing)
    ended = machine.make(target, "GPU=1")
    assert ended.returncode != 0
    assert "nvidia-smi finds no GPU on this machine" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not machine.mark.exists()


def test_with_a_gpu_the_install_is_for_gpus(machine: Machine) -> None:
    machine.list_gpus("echo '0, GPU-1, NVIDIA H100 80GB HBM3, 81559, 4, Disabled'")
    machine.make("setup", "GPU=1")
    assert machine.mark.exists()


@pytest.mark.parametrize("arguments", [("lock", "GPU=1"), ("setup",)])
def test_what_needs_no_gpu_asks_for_none(machine: Machine, arguments: tuple[str, ...]) -> None:
    machine.make(*arguments)
    assert machine.mark.exists()


@pytest.mark.parametrize(
    ("given", "told"), [("model=/x", "write MODEL=… for model=…"), ("Gpu=1", "GPU"), ("api-key=k3y", "API_KEY")]
)
def test_a_misspelled_variable_is_refused(machine: Machine, given: str, told: str) -> None:
    ended = machine.make("up", given)
    assert ended.returncode != 0
    assert told in ended.stderr
    assert "k3y" not in ended.stderr
    assert ended.stdout == ""
    assert not machine.mark.exists()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("", "there is no such program"),
        ("echo 'Python 3.9.2'; exit 1", "wants Python 3.11, 3.12 or 3.13, this is Python 3.9.2"),
    ],
)
def test_an_unsuitable_python_is_named(machine: Machine, script: str, told: str) -> None:
    if script:
        machine.tool("python3.9", script)
    ended = machine.make("setup", python="python3.9")
    assert ended.returncode != 0
    assert "PYTHON=" in ended.stdout
    assert told in ended.stdout
    assert not machine.mark.exists()


def test_output_comes_before_the_first_download(machine: Machine) -> None:
    machine.tool("python", f'case "$*" in "-m venv"*) exit 9;; esac\nexec "{sys.executable}" "$@"')
    first, *_ = machine.make("setup").stdout.splitlines()
    assert first.startswith("installing into ")


@pytest.mark.parametrize("variable", ["API_KEY", "REDIS_URL", "REDIS_PASSWORD"])
def test_a_secret_from_the_environment_is_on_no_command_line(
    machine: Machine, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "s3cret")
    for target in ("up", "demo"):
        ended = machine.make("--dry-run", target)
        assert f"services.local {target}" in ended.stdout
        assert "s3cret" not in ended.stdout


def test_no_doc_passes_a_secret_as_a_make_variable() -> None:
    pages = [ROOT / "README.md", ROOT / "Makefile", *DOCS.glob("*.md")]
    lines = [line for page in pages for line in page.read_text().splitlines()]
    assert [line for line in lines if re.search(r"\bmake\b[^#]*\b(API_KEY|REDIS_URL|REDIS_PASSWORD)=", line)] == []
    assert any(re.match(r"API_KEY=\S+ make up", line) for line in lines)
