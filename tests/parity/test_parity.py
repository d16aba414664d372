"""The whole stack over its public API equals transformers: text tokens, codec codes and samples."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest

from tests.fixtures.oracle import Oracle, OracleResult
from tests.fixtures.stack import Stack
from tests.parity.ask import ParityAnswer, converse, expected
from tests.parity.cases import CASES, Case

SAMPLE_TOLERANCE = 1e-4
"""Of a full scale of 1; 16-bit rounding alone is 1.5e-5."""

BESIDE = 8
"""The number of other requests in the test under load."""


@pytest.fixture(scope="session")
def answers(oracle: Oracle) -> dict[str, OracleResult]:
    """Return the cache of the oracle's answers, which `reference` fills."""
    return {}


def reference(oracle: Oracle, answers: dict[str, OracleResult], case: Case) -> OracleResult:
    if case.name not in answers:
        answers[case.name] = expected(oracle, case)
    return answers[case.name]


def compare(case: Case, got: ParityAnswer, want: OracleResult) -> None:
    assert got.token_ids == want.token_ids
    if not case.voice:
        assert got.pcm == b""
        return
    assert np.array_equal(np.array(got.codes).reshape(-1, 16), want.codes.numpy())
    samples = want.samples.numpy()
    assert got.samples.shape == samples.shape
    if samples.size:
        assert np.abs(got.samples - samples).max() <= SAMPLE_TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_answer_equals_transformers(
    case: Case, stack: Stack, oracle: Oracle, answers: dict[str, OracleResult]
):
    got = await converse(stack.grpc_address, stack.api_key, stack.model, case)
    compare(case, got, reference(oracle, answers, case))


async def test_answers_are_the_same_beside_eight_others(stack: Stack, oracle: Oracle, answers: dict[str, OracleResult]):
    wanted = {case.name: reference(oracle, answers, case) for case in CASES}
    room = asyncio.Semaphore(BESIDE + 1)
    ask = partial(converse, stack.grpc_address, stack.api_key, stack.model)

    async def one(case: Case) -> tuple[Case, ParityAnswer]:
        async with room:
            return case, await ask(case)

    for case, got in await asyncio.gather(*(one(case) for case in CASES)):
        compare(case, got, wanted[case.name])


def test_the_cases_cover_every_kind(oracle: Oracle, answers: dict[str, OracleResult]):
    results = [reference(oracle, answers, case) for case in CASES]
    lengths = {len(result.token_ids) for result in results}
    assert len(CASES) >= 30
    assert {case.voice for case in CASES} >= {"Ethan", "Chelsie", "Aiden", ""}
    assert min(lengths) == 1
    assert max(lengths) == 200
    assert sum(len(result.codes) for result in results) > 200, "most cases speak"
    assert len({tuple(result.token_ids[:8]) for result in results}) > len(CASES) // 2, "answers differ"
