"""Log probabilities equal the log-softmax of transformers' logits."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from vllm.v1.sample import sampler
from vllm.v1.sample.sampler import Sampler

from antiphon.v1 import thinker_pb2
from services.thinker.engine import cpu_worker
from services.thinker.service import Thinker
from tests.fixtures.oracle import Oracle
from tests.thinker.cases import CASES
from tests.thinker.collect import Collected
from tests.thinker.conftest import Ask, Prepare

pytestmark = pytest.mark.asyncio(loop_scope="session")
TOKENS = 24


async def collected(
    thinker: Thinker, prepared: Prepare, **sampling: object
) -> tuple[Collected, list[thinker_pb2.TokenLogprobs]]:
    got, logprobs = Collected(), list[thinker_pb2.TokenLogprobs]()
    request = prepared("text").request("logprobs", sampling={"max_tokens": TOKENS, **sampling})
    async for event in thinker.generator.run(request):
        got.add(event)
        if event.HasField("text"):
            assert len(event.text.logprobs) in (0, len(event.text.token_ids))
            logprobs += event.text.logprobs
    return got, logprobs


async def test_greedy_tokens_have_transformers_log_probabilities(
    thinker: Thinker, prepared: Prepare, oracle: Oracle, answer: Ask
) -> None:
    got, logprobs = await collected(thinker, prepared, top_logprobs=5, ignore_eos=True)
    case = CASES["text"]
    prompt = oracle.inputs(case.messages, case.media)["input_ids"]
    ids = torch.cat([prompt, torch.tensor([got.token_ids])], dim=1)
    with torch.inference_mode():
        logits = oracle.model.thinker(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    expected = logits.float().log_softmax(-1)[prompt.shape[1] - 1 : -1]
    assert len(logprobs) == len(got.token_ids) == TOKENS
    for place, token_id, one in zip(expected, got.token_ids, logprobs, strict=True):
        assert one.token.token_id == token_id
        assert one.token.logprob == pytest.approx(place[token_id].item(), abs=1e-4)
        likeliest = place.topk(5)
        assert [top.token_id for top in one.top] == likeliest.indices.tolist()
        assert [top.logprob for top in one.top] == pytest.approx(likeliest.values.tolist(), abs=1e-4)


async def test_the_texts_of_tokens_make_the_answer(thinker: Thinker, prepared: Prepare) -> None:
    got, logprobs = await collected(thinker, prepared, top_logprobs=0, temperature=1.0, seed=3)
    texts = [one.token.text for one in logprobs]
    if got.token_ids[-1] in thinker.checkpoint.end_token_ids():
        assert texts.pop().startswith(b"<|")
    assert b"".join(texts).decode(errors="replace").startswith(got.content)
    assert all(not one.top for one in logprobs)


async def test_none_are_given_where_none_are_asked_for(thinker: Thinker, prepared: Prepare) -> None:
    _, logprobs = await collected(thinker, prepared)
    assert logprobs == []


async def test_nothing_is_compiled_for_them_on_a_cpu() -> None:
    """A compiler would be needed, and the engine would answer nothing meanwhile."""
    assert vars(sampler)["batched_count_greater_than"] is cpu_worker.count_at_least
    before = counters["frames"].total()
    logprobs = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.1, 0.3]]).log()
    gathered = Sampler.gather_logprobs(logprobs, 1, torch.tensor([0, 0]))
    assert gathered.selected_token_ranks.tolist() == [3, 1]
    assert counters["frames"].total() == before
