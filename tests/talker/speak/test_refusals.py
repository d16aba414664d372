"""Calls of Speak that are refused or ended: the error, and nothing left of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from antiphon.v1 import common_pb2, talker_pb2
from services.common.errors import HIDDEN_STATES_GONE, AntiphonError, BadInput, ContextTooLong, Gone, NotFound, TimedOut
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from tests.fixtures.oracle import OracleResult
from tests.fixtures.wait import wait_until
from tests.talker.speak.rig import Talker, begin, read_to_end, running_talker, text


async def test_a_lease_serves_one_call(talker: Talker, expected: OracleResult) -> None:
    start = await talker.start_of(expected, max_frames=2)
    await talker.speak(begin(start), text(expected.token_ids, is_last=True))
    with pytest.raises(Gone):
        await talker.speak(begin(start), text(expected.token_ids, is_last=True))


@pytest.mark.parametrize(
    ("changes", "kind", "code", "param"),
    [
        ({"voice": "Nobody"}, BadInput, "unknown_voice", "voice"),
        ({"model": "another"}, NotFound, "model_not_found", "model"),
        ({"max_frames": 0}, BadInput, "invalid_value", "max_frames"),
        ({"sampling": talker_pb2.TalkerSampling(temperature=-1)}, BadInput, "invalid_value", "talker.temperature"),
        ({"delivered_codes": [1] * 17}, BadInput, "invalid_value", "delivered_codes"),
        ({"delivered_codes": [999] * 16}, BadInput, "invalid_value", "delivered_codes"),
        ({"prompt_token_ids": [1, 2, 3]}, BadInput, "invalid_value", "prompt_token_ids"),
        ({"prompt_token_ids": [99999999]}, BadInput, "invalid_value", "prompt_token_ids"),
        ({"image_grids": []}, BadInput, "invalid_value", "grids"),
        ({"hidden_states": common_pb2.TensorRef()}, BadInput, "invalid_value", "hidden_states"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
async def test_a_wrong_start_is_refused_and_costs_nothing(
    talker: Talker, expected: OracleResult, changes: dict[str, Any], kind: type[AntiphonError], code: str, param: str
) -> None:
    start = await talker.start_of(expected, **changes)
    with pytest.raises(kind) as refused:
        await talker.speak(begin(start), text(expected.token_ids, is_last=True))
    assert (refused.value.code, refused.value.param) == (code, param)
    await wait_until(lambda: talker.keeper.busy == 0)


async def test_an_unknown_voice_error_lists_the_known_ones(talker: Talker, expected: OracleResult) -> None:
    with pytest.raises(BadInput, match="Nobody") as refused:
        await talker.speak(begin(await talker.start_of(expected, voice="Nobody")))
    assert all(voice in refused.value.message for voice in ("chelsie", "ethan", "aiden"))


async def test_too_few_hidden_states_are_refused(talker: Talker, expected: OracleResult) -> None:
    start = await talker.start_of(expected, hidden_states=talker.keep(expected.hidden_states[1:]))
    with pytest.raises(BadInput, match=r"15 media placeholders, but 14 hidden states") as refused:
        await talker.speak(begin(start), text(expected.token_ids, is_last=True))
    assert refused.value.param == "hidden_states"


@pytest.mark.parametrize("change", [{"key": "other"}, {"owner": "127.0.0.1:1"}], ids=["released", "thinker away"])
async def test_hidden_states_that_cannot_be_pulled_are_gone(
    talker: Talker, expected: OracleResult, change: dict[str, str]
) -> None:
    """The gateway must make them again, not start the speech on another talker."""
    start = await talker.start_of(expected)
    for name, value in change.items():
        setattr(start.hidden_states.blob, name, value)
    with pytest.raises(Gone) as refused:
        await talker.speak(begin(start))
    assert refused.value.code == HIDDEN_STATES_GONE


async def test_text_that_ends_without_its_last_token_is_refused(talker: Talker, expected: OracleResult) -> None:
    with pytest.raises(BadInput, match="last token"):
        await talker.speak(begin(await talker.start_of(expected)), text([5, 6], is_last=False))


async def test_a_call_must_begin_with_start(talker: Talker) -> None:
    with pytest.raises(BadInput) as refused:
        await talker.speak(text([5], is_last=True))
    assert refused.value.param == "start"


async def test_a_second_start_is_refused(talker: Talker, expected: OracleResult) -> None:
    start = begin(await talker.start_of(expected))
    with pytest.raises(BadInput):
        await talker.speak(start, start)


async def test_a_deadline_ends_a_call_that_waits_for_text(talker: Talker, expected: OracleResult) -> None:
    context = common_pb2.RequestContext(request_id="r", deadline_unix_ms=round(time.time() * 1000) + 300)
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected, context=context)))
    with pytest.raises(TimedOut):
        await read_to_end(call)


async def test_missing_text_ends_the_call(
    engine: SpeechEngine, speech_models: SpeechModels, valkey_url: str, expected: OracleResult
) -> None:
    async with running_talker(engine, speech_models, valkey_url, text_timeout_s=0.05) as talker:
        call = talker.stub.Speak()
        await call.write(begin(await talker.start_of(expected)))
        with pytest.raises(TimedOut):
            await read_to_end(call)


async def test_a_prompt_too_long_for_the_talker_is_refused(talker: Talker, speech_models: SpeechModels) -> None:
    config = speech_models.config
    turn = [config.im_start_id, config.user_id, *[5] * config.max_positions]
    prompt = [*turn, config.im_start_id, config.assistant_id, 5]
    start = talker_pb2.SpeakStart(lease=await talker.lease(), prompt_token_ids=prompt)
    with pytest.raises(ContextTooLong):
        await talker.speak(begin(start))
