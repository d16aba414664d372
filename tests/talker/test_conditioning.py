"""Prompt embeddings equal those that transformers gives its talker."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from antiphon.v1 import common_pb2
from services.common.errors import BadInput
from services.talker.checkpoint import SpeechModels
from services.talker.conditioning import Conditioner, read_prompt
from tests.fixtures.oracle import Oracle, TalkerOptions, ThinkerOptions
from tests.talker.cases import CASES
from tests.talker.speech import prompt_of


@pytest.mark.parametrize("case", CASES)
def test_prompt_and_text_embeds_equal_transformers(oracle: Oracle, speech_models: SpeechModels, case: str) -> None:
    given: dict[str, Any] = {}
    generate = oracle.model.talker.generate

    def watched(**kwargs: Any) -> Any:
        given.update(kwargs)
        return generate(**kwargs)

    oracle.model.talker.generate = watched
    asked = CASES[case]
    try:
        answer = oracle.generate(
            asked.messages,
            asked.media,
            voice="chelsie",
            thinker=ThinkerOptions(max_new_tokens=6),
            talker=TalkerOptions(max_frames=1),
            use_audio_in_video=asked.use_audio_in_video,
        )
    finally:
        vars(oracle.model.talker).pop("generate", None)
    conditioner = Conditioner(speech_models)
    prompt = prompt_of(speech_models.config, answer, voice="Chelsie")
    spoken = answer.token_ids[:-1]
    first = conditioner.first_embed() + conditioner.text_embeds(spoken[:1])
    ours = torch.cat((conditioner.prompt_embeds(prompt), first))
    torch.testing.assert_close(ours, given["inputs_embeds"][0], atol=1e-5, rtol=0)
    config = speech_models.config
    trailing = conditioner.text_embeds([*spoken[1:], config.tts_eos_id])
    torch.testing.assert_close(trailing, given["trailing_text_hidden"][0], atol=1e-5, rtol=0)
    pad = conditioner.text_embeds([config.tts_pad_id])
    torch.testing.assert_close(pad, given["tts_pad_embed"][0], atol=1e-5, rtol=0)
    assert prompt.positions.shape == (3, prompt.num_tokens)


def test_media_outside_user_turns_takes_no_hidden_state(speech_models: SpeechModels) -> None:
    config = speech_models.config
    start, pad = config.im_start_id, config.audio_pad_id
    prompt = read_prompt(
        config,
        [start, 9, pad, pad, start, config.user_id, 7, pad, start, config.assistant_id, 5],
        image_grids=(),
        video_grids=(),
        hidden_states=torch.zeros(1, config.thinker_hidden_size),
        voice="",
    )
    assert prompt.user_ids == [start, config.user_id, 7, pad]
    assert prompt.media == [False, False, False, True]
    assert prompt.voice_id == config.voices["ethan"]


def test_grids_of_media_outside_user_turns_are_skipped(speech_models: SpeechModels) -> None:
    config = speech_models.config
    start, vision, pad = config.im_start_id, config.vision_start_id, config.image_pad_id
    ids = [start, 9, vision, *[pad] * 4, start, config.user_id, vision, pad, start, config.assistant_id, 5]
    prompt = read_prompt(
        config,
        ids,
        image_grids=[common_pb2.MediaGrid(t=1, h=4, w=4), common_pb2.MediaGrid(t=1, h=2, w=2)],
        video_grids=(),
        hidden_states=torch.zeros(1, config.thinker_hidden_size),
        voice="",
    )
    assert prompt.media == [False, False, False, True]


def test_tokens_of_the_prompt_that_open_the_answer_are_spoken(speech_models: SpeechModels) -> None:
    config = speech_models.config
    ids = [config.im_start_id, config.user_id, 7, config.im_start_id, config.assistant_id, 5, 41, 42]
    prompt = read_prompt(config, ids, image_grids=(), video_grids=(), hidden_states=None, voice="")
    assert prompt.header_ids == ids[3:6]
    assert prompt.spoken_ids == [41, 42]


def test_hidden_states_of_another_width_are_refused(speech_models: SpeechModels) -> None:
    config = speech_models.config
    ids = [config.im_start_id, config.user_id, config.audio_pad_id, config.im_start_id, config.assistant_id, 5]
    with pytest.raises(BadInput) as refused:
        read_prompt(config, ids, image_grids=(), video_grids=(), hidden_states=torch.zeros(1, 3), voice="")
    assert refused.value.param == "hidden_states"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_hidden_states_that_are_not_finite_are_refused(speech_models: SpeechModels, value: float) -> None:
    hidden_states = torch.zeros(1, speech_models.config.thinker_hidden_size)
    hidden_states[0, 3] = value
    with pytest.raises(BadInput, match="finite") as refused:
        read_prompt(speech_models.config, [], image_grids=(), video_grids=(), hidden_states=hidden_states, voice="")
    assert refused.value.param == "hidden_states"
