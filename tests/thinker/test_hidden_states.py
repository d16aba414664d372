"""The talker's hidden states equal transformers', whether the tokens are computed or come from the prefix cache."""

from __future__ import annotations

import asyncio

import pytest
import torch

from services.common.errors import Gone
from services.common.tensors.codec import tensor_from_bytes
from services.thinker.service import Thinker
from tests.fixtures.oracle import Oracle, ThinkerOptions
from tests.thinker.cases import CASES
from tests.thinker.collect import Collected, collect
from tests.thinker.conftest import Prepare

pytestmark = pytest.mark.asyncio(loop_scope="session")
WITH_MEDIA = [name for name, case in CASES.items() if case.media.images or case.media.audios or case.media.videos]


@pytest.fixture(scope="module")
def wanted(oracle: Oracle) -> dict[str, torch.Tensor]:
    """Return each case's hidden states: [tokens, hidden size]."""
    hidden_states: dict[str, torch.Tensor] = {}
    for name in WITH_MEDIA:
        case = CASES[name]
        inputs = oracle.inputs(case.messages, case.media, use_audio_in_video=case.use_audio_in_video)
        hidden_states[name] = oracle.generate_from_inputs(
            inputs,
            thinker=ThinkerOptions(max_new_tokens=1),
            use_audio_in_video=case.use_audio_in_video,
        ).hidden_states
    return hidden_states


def hidden_states_of(thinker: Thinker, got: Collected) -> torch.Tensor:
    assert got.hidden_states is not None
    data = thinker.hidden_states.get(got.hidden_states.blob.key)
    assert len(data) == got.hidden_states.blob.size_bytes
    return tensor_from_bytes(data, got.hidden_states.dtype, tuple(got.hidden_states.shape))


async def speak(thinker: Thinker, prepared: Prepare, name: str, turn: str, tenant: str = "hidden-states") -> Collected:
    request = prepared(name).request(turn, sampling={"max_tokens": 6}, tenant=tenant, wants_hidden_states=True)
    return await collect(thinker, request)


@pytest.mark.parametrize("name", WITH_MEDIA)
async def test_hidden_states_equal_transformers(
    name: str, thinker: Thinker, prepared: Prepare, wanted: dict[str, torch.Tensor]
) -> None:
    first = await speak(thinker, prepared, name, f"first-{name}")
    assert first.kinds[0] == "hidden_states"
    assert first.kinds.count("hidden_states") == 1
    again = await speak(thinker, prepared, name, f"again-{name}")
    assert again.done.cached_tokens > 0  # from the prefix cache
    for got in (first, again):
        hidden_states = hidden_states_of(thinker, got)
        assert hidden_states.shape == wanted[name].shape
        assert torch.allclose(hidden_states.float(), wanted[name], atol=1e-4, rtol=0)
    for turn in (f"first-{name}", f"again-{name}"):
        thinker.hidden_states.release(turn)


async def test_hidden_states_are_right_with_many_requests_at_once(
    thinker: Thinker, prepared: Prepare, wanted: dict[str, torch.Tensor]
) -> None:
    async with asyncio.TaskGroup() as group:
        turns = [
            (name, group.create_task(speak(thinker, prepared, name, f"many-{copy}-{name}", tenant=f"many-{copy}")))
            for copy in range(2)
            for name in WITH_MEDIA
        ]
    for name, turn in turns:
        assert torch.allclose(hidden_states_of(thinker, turn.result()).float(), wanted[name], atol=1e-4, rtol=0)
    for copy in range(2):
        for name in WITH_MEDIA:
            thinker.hidden_states.release(f"many-{copy}-{name}")
    assert thinker.hidden_states.used_bytes == 0


async def test_a_text_prompt_has_no_hidden_states(thinker: Thinker, prepared: Prepare) -> None:
    got = await speak(thinker, prepared, "text", "text-hidden-states")
    assert got.hidden_states is None
    assert thinker.hidden_states.used_bytes == 0


async def test_hidden_states_are_stored_only_on_request(thinker: Thinker, prepared: Prepare) -> None:
    got = await collect(thinker, prepared("audio").request("silent", sampling={"max_tokens": 2}))
    assert got.hidden_states is None
    assert thinker.hidden_states.used_bytes == 0


async def test_a_released_turn_s_hidden_states_are_gone(thinker: Thinker, prepared: Prepare) -> None:
    got = await speak(thinker, prepared, "audio", "released")
    assert got.hidden_states is not None
    thinker.hidden_states.release("released")
    with pytest.raises(Gone):
        thinker.hidden_states.get(got.hidden_states.blob.key)


async def test_hidden_states_of_a_complete_answer_can_be_recomputed(
    thinker: Thinker, prepared: Prepare, wanted: dict[str, torch.Tensor]
) -> None:
    before = await collect(thinker, prepared("audio").request("before", sampling={"max_tokens": 6}))
    request = prepared("audio").request(
        "remade", sampling={"max_tokens": 6}, wants_hidden_states=True, generated_token_ids=before.token_ids
    )
    got = await collect(thinker, request)
    assert got.kinds == ["hidden_states", "done"]
    assert torch.allclose(hidden_states_of(thinker, got).float(), wanted["audio"], atol=1e-4, rtol=0)
    assert got.done.finish_reason == before.done.finish_reason
    thinker.hidden_states.release("remade")
