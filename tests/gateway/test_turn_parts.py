"""The parts of a turn: event queue, answer, playback clock, catalogue."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.errors import (
    AntiphonError,
    BadInput,
    Capacity,
    ContextTooLong,
    NotFound,
    Unavailable,
    WorkerLost,
    root_cause,
)
from services.common.queues.tickets import ServedModel
from services.gateway.turn.answer import Answer
from services.gateway.turn.catalogue import Catalogue, check_length, check_turn, is_whole
from services.gateway.turn.events import EventQueue
from services.gateway.turn.playback import PlaybackClock
from services.gateway.turn.request import SpeechOptions
from tests.gateway.conftest import CAPTIONER, INSTRUCT, THINKING

ALL = frozenset({"preprocess", "thinker", "talker"})


def text(content: str) -> thinker_pb2.GeneratedText:
    return thinker_pb2.GeneratedText(content_delta=content)


async def test_an_error_before_the_release_overtakes_queued_events() -> None:
    events = EventQueue(4)
    await events.put(text("a"))
    await events.end(Capacity("full"))
    with pytest.raises(Capacity):
        await anext(events)


async def test_an_error_after_the_release_comes_in_its_place() -> None:
    events = EventQueue(4)
    await events.put(text("a"))
    events.release()
    await events.end(WorkerLost("gone"))
    assert await anext(events) == text("a")
    with pytest.raises(WorkerLost):
        await anext(events)


async def test_a_slow_reader_blocks_the_writer() -> None:
    events = EventQueue(1)
    events.release()
    await events.put(text("a"))
    second = asyncio.ensure_future(events.put(text("b")))
    await asyncio.wait((second,), timeout=0.05)
    assert not second.done()
    assert await anext(events) == text("a")
    await second
    ending = asyncio.ensure_future(events.end())
    assert [event async for event in events] == [text("b")]
    await ending


async def test_tokens_that_came_meanwhile_are_fed_together() -> None:
    answer = Answer()
    waiting = asyncio.ensure_future(answer.tokens_after(0))
    await asyncio.sleep(0)
    answer.add_tokens([1], is_last=False)
    assert await waiting == ([1], False)
    answer.add_tokens([2], is_last=False)
    answer.add_tokens([3, 4], is_last=True)
    assert await answer.tokens_after(1) == ([2, 3, 4], True)


def test_a_client_that_plays_runs_dry_only_when_a_packet_is_late() -> None:
    clock = PlaybackClock(1000)
    assert clock.deliver(1000, now_s=10.0) == 0  # plays until 11
    assert clock.deliver(1000, now_s=10.1) == 0  # until 12
    assert clock.deliver(500, now_s=12.0) == 0  # until 12.5
    assert clock.deliver(500, now_s=13.0) == pytest.approx(0.5)
    assert clock.deliver(500, now_s=13.4) == 0  # until 14: playing had begun again at 13


def test_a_model_is_found_by_name_or_as_the_only_one() -> None:
    catalogue = Catalogue()
    one = ServedModel(INSTRUCT, ALL)
    both = {"tiny-instruct": one, "tiny-thinking": ServedModel(THINKING, ALL)}
    assert catalogue.find({"tiny-instruct": one}, None) is one
    assert catalogue.find(both, "tiny-instruct") is one
    with pytest.raises(BadInput):
        catalogue.find(both, None)
    with pytest.raises(NotFound) as caught:
        catalogue.find(both, "gpt-4")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_model_whose_workers_are_away_is_not_unknown() -> None:
    catalogue = Catalogue()
    thinking = {"tiny-thinking": ServedModel(THINKING, ALL)}
    catalogue.find({"tiny-instruct": ServedModel(INSTRUCT, ALL), **thinking}, "tiny-thinking")
    with pytest.raises(Unavailable) as caught:
        catalogue.find(thinking, "tiny-instruct")
    assert caught.value.code == "no_worker"


def test_without_models_no_name_is_called_unknown() -> None:
    with pytest.raises(Unavailable):
        Catalogue().find({}, "tiny-instruct")


@pytest.mark.parametrize(
    ("card", "stages", "whole"),
    [
        (INSTRUCT, ALL, True),
        (INSTRUCT, {"preprocess", "thinker"}, False),
        (THINKING, {"preprocess", "thinker"}, True),
        (THINKING, {"thinker"}, False),
    ],
)
def test_a_model_is_complete_with_the_stages_of_its_kind(
    card: common_pb2.ModelCard, stages: set[str], whole: bool
) -> None:
    assert is_whole(ServedModel(card, frozenset(stages))) is whole


def user(*parts: preprocess_pb2.Part) -> list[preprocess_pb2.Message]:
    return [preprocess_pb2.Message(role="user", parts=parts)]


HELLO = preprocess_pb2.Part(path="messages[0].content", text="hello")
CLIP = preprocess_pb2.Part(path="messages[0].content[0]", audio=preprocess_pb2.AudioPart())
LOUD = SpeechOptions("Ethan", talker_pb2.TalkerSampling(), None)


def check(
    card: common_pb2.ModelCard,
    messages: list[preprocess_pb2.Message],
    speech: SpeechOptions | None = None,
    max_tokens: int | None = None,
    stages: frozenset[str] = ALL,
    *,
    use_audio_in_video: bool = False,
) -> None:
    check_turn(
        ServedModel(card, stages),
        messages,
        speech,
        max_tokens,
        use_audio_in_video=use_audio_in_video,
        voice_param="audio.voice",
        modalities_param="modalities",
    )


def test_one_media_item_too_many_is_named() -> None:
    card = common_pb2.ModelCard()
    card.CopyFrom(INSTRUCT)
    card.max_items.CopyFrom(common_pb2.MediaCounts(images=1, audios=2, videos=1))
    film = preprocess_pb2.Part(path="messages[2].content[1]", video=preprocess_pb2.VideoPart())
    talk = [*user(CLIP), *user(HELLO), *user(CLIP, film)]
    check(card, talk)
    check(INSTRUCT, [*talk, *user(*[CLIP] * 2000)])  # a worker that says no limit has none
    with pytest.raises(BadInput) as caught:
        check(card, talk, use_audio_in_video=True)
    assert (caught.value.code, caught.value.param) == ("too_many_media", "messages[2].content[1]")
    assert "at most 2" in caught.value.message


def test_what_a_model_can_do_passes() -> None:
    check(INSTRUCT, user(HELLO, CLIP), LOUD, 1000)
    check(INSTRUCT, user(HELLO), stages=frozenset({"preprocess", "thinker"}))
    check(THINKING, user(CLIP))
    check(CAPTIONER, user(CLIP))


@pytest.mark.parametrize(
    ("card", "messages", "speech", "max_tokens", "error", "param"),
    [
        (THINKING, user(HELLO), LOUD, None, BadInput, "modalities"),
        (
            INSTRUCT,
            user(HELLO),
            SpeechOptions("alloy", talker_pb2.TalkerSampling(), None),
            None,
            BadInput,
            "audio.voice",
        ),
        (INSTRUCT, user(HELLO), None, 1001, ContextTooLong, "max_tokens"),
        (CAPTIONER, user(HELLO, CLIP), None, None, BadInput, "messages"),
        (CAPTIONER, user(CLIP, CLIP), None, None, BadInput, "messages"),
        (CAPTIONER, user(HELLO), None, None, BadInput, "messages"),
        (
            INSTRUCT,
            [preprocess_pb2.Message(role="assistant", parts=[CLIP])],
            None,
            None,
            BadInput,
            "messages[0].content[0]",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused_from_its_card(
    card: common_pb2.ModelCard,
    messages: list[preprocess_pb2.Message],
    speech: SpeechOptions | None,
    max_tokens: int | None,
    error: type[AntiphonError],
    param: str,
) -> None:
    with pytest.raises(error) as caught:
        check(card, messages, speech, max_tokens)
    assert caught.value.param == param


def test_speech_without_a_talker_is_unavailable_and_text_is_not() -> None:
    with pytest.raises(Unavailable) as caught:
        check(INSTRUCT, user(HELLO), LOUD, stages=frozenset({"preprocess", "thinker"}))
    assert caught.value.code == "no_worker"
    assert caught.value.message == "No talker worker serves this model at the moment."
    check(INSTRUCT, user(HELLO), None, stages=frozenset({"preprocess", "thinker"}))


@pytest.mark.parametrize(
    ("prompt", "limit", "fits"), [(999, None, True), (1000, None, False), (990, 10, True), (990, 11, False)]
)
def test_prompt_and_answer_fit_the_model(prompt: int, limit: int | None, fits: bool) -> None:
    if fits:
        check_length(INSTRUCT, prompt, limit)
    else:
        with pytest.raises(ContextTooLong) as caught:
            check_length(INSTRUCT, prompt, limit)
        assert caught.value.code == "context_length_exceeded"


def test_the_client_gets_the_cause_of_several_failures() -> None:
    cause = BadInput("wrong")
    group = ExceptionGroup("x", [WorkerLost("gone"), ExceptionGroup("y", [ValueError(), cause])])
    assert root_cause(group) is cause
    assert root_cause(ExceptionGroup("x", [ValueError()])) is None
