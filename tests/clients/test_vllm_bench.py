"""`vllm bench serve`, vLLM's own load generator, measures a gateway: with the other clients of `make test-clients`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.clients import environments
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.stages import Stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
MADE = any(map(environments.is_made, environments.names()))
REQUESTS = 4
# As the command does it; the command itself asks for the version of a package that vLLM for CPUs does not bring.
BENCH_SERVE = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@pytest.mark.skipif(not MADE, reason="it takes long to start, and runs beside the other clients: make test-clients")
async def test_it_measures_streams(stages: Stages, tiny_instruct: Path, tmp_path: Path) -> None:
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BENCH_SERVE),
        *("--backend", "openai-chat", "--base-url", stages.gateway.url, "--endpoint", "/v1/chat/completions"),
        *("--model", INSTRUCT.name, "--tokenizer", tiny_instruct, "--dataset-name", "random"),
        *("--random-input-len", "8", "--random-output-len", "4", "--num-prompts", str(REQUESTS)),
        *("--max-concurrency", "1", "--disable-tqdm", "--save-result", "--save-detailed", "--ignore-eos"),
        *("--result-dir", tmp_path, "--result-filename", "result.json"),
        cwd=tmp_path,
        env={**os.environ, "OPENAI_API_KEY": API_KEY, "VLLM_LOGGING_LEVEL": "ERROR"},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await bench.communicate()
    assert bench.returncode == 0, f"{out.decode()}\n{err.decode()}"
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (REQUESTS, 0), result["errors"]
    # Three words and the end: the scripted model's answer, and its usage.
    assert set(result["output_lens"]) == {4}
