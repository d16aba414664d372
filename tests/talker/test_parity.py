"""Codes and samples equal transformers' `generate`."""

from __future__ import annotations

import pytest
import torch

from antiphon.v1 import talker_pb2
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from tests.fixtures.oracle import OracleResult, TalkerOptions
from tests.talker.cases import CASES
from tests.talker.conftest import ExpectedSpeech
from tests.talker.speech import Spoken, request_of, speak

GREEDY = TalkerOptions(do_sample=False)


def assert_equal(spoken: Spoken, answer: OracleResult) -> None:
    assert spoken.codes.tolist() == answer.codes.tolist()
    assert len(spoken.samples) == len(answer.samples)
    torch.testing.assert_close(spoken.samples, answer.samples, atol=1e-4, rtol=0)


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("case", CASES)
async def test_speech_equals_transformers_on_every_kind_of_prompt(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech, case: str, do_sample: bool
) -> None:
    options = TalkerOptions(do_sample=do_sample, seed=1)
    expected = answer(case, talker=options)
    spoken = await speak(engine, request_of(speech_models.config, expected, options), expected.token_ids)
    assert len(expected.codes) > 0
    assert_equal(spoken, expected)


@pytest.mark.parametrize("voice", ["Ethan", "chelsie", "AIDEN"])
async def test_each_voice_speaks_as_in_transformers(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech, voice: str
) -> None:
    options = TalkerOptions(seed=2)
    expected = answer("text", talker=options, voice=voice)
    request = request_of(speech_models.config, expected, options, voice=voice)
    assert_equal(await speak(engine, request, expected.token_ids), expected)


@pytest.mark.parametrize("tokens", [2, 3, 9, 40, 200])
async def test_answers_of_any_length_are_spoken_as_in_transformers(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech, tokens: int
) -> None:
    options = TalkerOptions(seed=tokens, max_frames=60)
    expected = answer("audio", tokens, options)
    assert len(expected.token_ids) == tokens
    spoken = await speak(engine, request_of(speech_models.config, expected, options), expected.token_ids)
    assert_equal(spoken, expected)


@pytest.mark.parametrize(
    "options",
    [
        TalkerOptions(seed=3, temperature=1.0, top_k=0),
        TalkerOptions(seed=4, temperature=1.7, top_p=0.6),
        TalkerOptions(seed=5, top_k=1, repetition_penalty=1.0),
        TalkerOptions(seed=6, repetition_penalty=1.9),
        TalkerOptions(seed=2**62, top_k=5000),
        TalkerOptions(do_sample=False, repetition_penalty=1.4),
    ],
    ids=repr,
)
async def test_every_sampling_setting_equals_transformers(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech, options: TalkerOptions
) -> None:
    expected = answer("text", talker=options)
    spoken = await speak(engine, request_of(speech_models.config, expected, options), expected.token_ids)
    assert_equal(spoken, expected)


async def test_the_frame_limit_cuts_where_transformers_cuts(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    options = TalkerOptions(seed=1, max_frames=3)
    expected = answer("image", 30, options)
    spoken = await speak(engine, request_of(speech_models.config, expected, options), expected.token_ids)
    assert len(expected.codes) == 3
    assert spoken.summary is not None
    assert spoken.summary.reason == talker_pb2.SPEECH_END_LENGTH
    assert_equal(spoken, expected)


async def test_speech_that_ends_by_itself_says_so(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    options = TalkerOptions(seed=0, max_frames=400)
    expected = answer("text", 4, options)
    spoken = await speak(engine, request_of(speech_models.config, expected, options), expected.token_ids)
    assert 0 < len(expected.codes) < 400
    assert spoken.summary is not None
    assert spoken.summary.reason == talker_pb2.SPEECH_END_STOP
    assert spoken.summary.frames == len(expected.codes)
    assert spoken.summary.samples == len(expected.samples)
    assert_equal(spoken, expected)


async def test_an_answer_of_one_token_is_not_spoken(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    expected = answer("text", 1)
    assert len(expected.token_ids) == 1
    assert len(expected.codes) == 0
    spoken = await speak(engine, request_of(speech_models.config, expected, GREEDY), expected.token_ids)
    assert spoken.chunks == []
    assert spoken.summary is not None
    assert spoken.summary.reason == talker_pb2.SPEECH_END_NO_TEXT


async def test_an_empty_text_is_not_spoken(
    engine: SpeechEngine, speech_models: SpeechModels, answer: ExpectedSpeech
) -> None:
    spoken = await speak(engine, request_of(speech_models.config, answer("text"), GREEDY), [])
    assert spoken.chunks == []
    assert spoken.summary is not None
    assert spoken.summary.reason == talker_pb2.SPEECH_END_NO_TEXT
    assert spoken.summary.samples == 0
