"""One engine for all thinker tests that need one."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.thinker.engine.environment import prepare_environment
from services.thinker.settings import ThinkerSettings
from tests.fixtures.oracle import Oracle, OracleResult, ThinkerOptions
from tests.talker.cases import Case
from tests.thinker.cases import CASES

prepare_environment()  # before vLLM is imported
with warnings.catch_warnings(action="ignore"):  # vLLM's and torch's own, at import
    from services.thinker.service import Thinker, running_thinker
    from tests.thinker.prepared import Owner, Prepared, prepare
    from tests.thinker.served_core import served_core

# float32 keys and values of the tiny checkpoint's four layers, and a hidden state.
BYTES_A_TOKEN = 4 * (2 * 4 * 2 * 32 + 64)
CACHE_BLOCKS = 176
Prepare = Callable[[str], Prepared]
PrepareCase = Callable[[Case], Prepared]
Ask = Callable[..., OracleResult]


@pytest.fixture(scope="session")
def settings(tiny_instruct: Path) -> ThinkerSettings:
    return ThinkerSettings(
        redis_url="redis://unused",
        model=str(tiny_instruct),
        served_name="tiny",
        max_model_len=5120,
        max_num_batched_tokens=4096,  # longer prompts are prefilled in chunks
        max_images=4,
        max_audios=4,
        # Little more than one longest sequence, so that concurrent requests preempt each other.
        kv_cache_memory_bytes=CACHE_BLOCKS * 32 * BYTES_A_TOKEN,
    )


@pytest.fixture(scope="session")
def owner() -> Owner:
    return Owner()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def thinker(settings: ThinkerSettings, owner: Owner) -> AsyncGenerator[Thinker]:
    with served_core() as core:
        async with running_thinker(settings, owner, "thinker:1", core) as running:
            yield running


@pytest.fixture(scope="session")
def prepare_case(thinker: Thinker, oracle: Oracle, owner: Owner) -> PrepareCase:
    """Return prepare_case(case), which prepares a prompt and puts its features where the thinker pulls them."""
    renderer: Any = thinker.engine._llm.renderer  # type: ignore[reportPrivateUsage]  # spares a second one

    def make(case: Case) -> Prepared:
        prompt = prepare(renderer, oracle, case)
        owner.blobs |= prompt.blobs
        return prompt

    return make


@pytest.fixture(scope="session")
def prepared(prepare_case: PrepareCase) -> Prepare:
    """Return prepared("audio"), which gives that case's prompt and prepares it once."""
    made: dict[str, Prepared] = {}

    def make(name: str) -> Prepared:
        if name not in made:
            made[name] = prepare_case(CASES[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def answer(oracle: Oracle) -> Ask:
    """Return answer("audio", ThinkerOptions(…)), which gives transformers' answer to that case."""
    made: dict[tuple[str, ThinkerOptions], OracleResult] = {}

    def ask(name: str, options: ThinkerOptions | None = None) -> OracleResult:
        options = options or ThinkerOptions(max_new_tokens=24)
        if (name, options) not in made:
            case = CASES[name]
            inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=case.use_audio_in_video)
            made[name, options] = oracle.generate_from_inputs(
                inputs, voice=None, thinker=options, use_audio_in_video=case.use_audio_in_video
            )
        return made[name, options]

    return ask
