"""The parts of a turn: event queue, answer, playback clock, catalogue, checks against a model's card."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

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
from services.gateway.turn.answer import Answer
from services.gateway.turn.catalogue import Catalogue
from services.gateway.turn.checks import check_intent, check_length
from services.gateway.turn.conversation import (
    AudioPart,
    FileSource,
    ImagePart,
    InlineSource,
    Message,
    Part,
    TextPart,
    UrlSource,
    VideoPart,
    text_bytes,
)
from services.gateway.turn.event_queue import EventQueue
from services.gateway.turn.events import SpeechEnd, Text
from services.gateway.turn.held_media import HeldMedia
from services.gateway.turn.intent import FieldNames, Intent, Sampling, SpeechOptions
from services.gateway.turn.model import Model, ModelKind
from services.gateway.turn.playback import PlaybackClock
from services.gateway.turn.timings import TurnTimes
from services.gateway.turn.worker_calls import SpeechDone
from tests.gateway.samples import sample

ALL = frozenset({"preprocess", "thinker", "talker"})
NAMES = FieldNames(voice="audio.voice", modalities="modalities")
INSTRUCT = Model("tiny-instruct", ModelKind.INSTRUCT, 1000, voices=("chelsie", "ethan"), stages=ALL)
THINKING = Model("tiny-thinking", ModelKind.THINKING, 1000, stages=ALL)
CAPTIONER = Model("tiny-captioner", ModelKind.CAPTIONER, 1000, stages=ALL)


def text(content: str) -> Text:
    return Text((1,), content)


async def test_an_error_before_the_release_overtakes_queued_events() -> None:
    events = EventQueue(4)
    await events.put(text("a"))
    events.end(Capacity("full"))
    with pytest.raises(Capacity):
        await anext(events)


async def test_an_error_after_the_release_comes_in_its_place() -> None:
    events = EventQueue(4)
    await events.put(text("a"))
    events.release()
    events.end(WorkerLost("gone"))
    assert await anext(events) == text("a")
    with pytest.raises(WorkerLost):
        await anext(events)


async def test_a_queue_that_was_cut_drops_what_it_holds_and_what_comes() -> None:
    events = EventQueue(1)
    events.release()
    await events.put(text("a"))
    waits = asyncio.create_task(events.put(text("b")))
    await asyncio.sleep(0)
    assert not waits.done()
    events.cut(Capacity("revoked"))
    await waits
    events.end(Capacity("later"))
    with pytest.raises(Capacity, match="revoked"):
        await events.take()


async def test_a_nudge_wakes_a_reader_without_an_event() -> None:
    events = EventQueue(4)
    events.release()
    takes = asyncio.create_task(events.take())
    await asyncio.sleep(0)
    events.nudge()
    assert await takes == ()


async def test_a_slow_reader_blocks_the_writer() -> None:
    events = EventQueue(1)
    events.release()
    await events.put(text("a"))
    second = asyncio.ensure_future(events.put(text("b")))
    await asyncio.wait((second,), timeout=0.05)
    assert not second.done()
    assert await anext(events) == text("a")
    await second
    events.end()
    assert [event async for event in events] == [text("b")]


async def test_a_writer_is_blocked_from_the_release_on() -> None:
    """However much is held back by then."""
    events = EventQueue(1)
    for word in "abc":
        await events.put(text(word))
    events.release()
    fourth = asyncio.ensure_future(events.put(text("d")))
    for word in "abc":
        assert not fourth.done()
        assert await anext(events) == text(word)
    await fourth
    assert await anext(events) == text("d")


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


def test_a_client_that_stands_still_plays_the_rest_later() -> None:
    clock = PlaybackClock(1000)
    clock.stand_still(5.0, until_s=6.0)  # it has nothing to play
    clock.deliver(2000, now_s=10.0)
    clock.stand_still(10.5, until_s=12.5)
    assert [clock.ahead_s(now_s) for now_s in (10.5, 11.0, 12.5, 13.0)] == pytest.approx([1.5, 1.5, 1.5, 1.0])
    clock.stand_still(11.5, until_s=0.0)  # it goes on sooner
    assert [clock.ahead_s(now_s) for now_s in (11.5, 12.0, 14.0)] == pytest.approx([1.5, 1.0, 0.0])
    clock.stand_still(12.0, until_s=14.0)
    clock.deliver(1000, now_s=12.5)  # which had left before
    assert [clock.ahead_s(now_s) for now_s in (13.0, 14.0, 15.5, 16.5)] == pytest.approx([2.0, 2.0, 0.5, 0.0])
    assert clock.deliver(1000, now_s=17.0) == pytest.approx(1.0)


def count(name: str) -> float:
    return sample(f"antiphon_gateway_{name}_count")


MEASURED = ("talker_first_frame_seconds", "talker_frame_seconds", "real_time_factor_ratio", "talker_frames_per_second")


@pytest.mark.parametrize(
    ("frames_at_s", "resumed", "frames", "observed"),
    [
        ([1.0, 2.0], False, 2, (1, 1, 1, 1)),
        ([1.0, 2.0], True, 2, (0, 1, 1, 1)),  # its first frame comes long after the text
        ([1.0], False, 1, (1, 1, 1, 0)),  # no rate of one frame
        ([], False, 0, (0, 0, 0, 0)),  # nothing was spoken
    ],
)
def test_times_of_speech_are_observed_once(
    frames_at_s: list[float], resumed: bool, frames: int, observed: tuple[int, ...]
) -> None:
    now_s = 0.5
    times = TurnTimes(0.0, clock=lambda: now_s, stage_began_s={"thinker": 0.0})
    times.tokens()
    for now_s in frames_at_s:  # noqa: B007  # the clock reads it
        times.speech(pcm_bytes=0)  # codes may come without samples
        times.speech(pcm_bytes=2)
    before = [count(name) for name in MEASURED]
    times.spoken(SpeechDone(SpeechEnd.STOP, frames), 24_000, resumed=resumed)
    assert [count(name) - start for name, start in zip(MEASURED, before, strict=True)] == list(observed)
    told = times.told()
    first_ms = 1000 * frames_at_s[0] if frames_at_s else 0.0
    assert (told.thinker_first_token_ms, told.talker_first_frame_ms, told.first_audio_ms) == (500, first_ms, first_ms)


@pytest.mark.parametrize("is_awaited", [True, False])
def test_waits_count_where_somebody_waits(is_awaited: bool) -> None:
    times = TurnTimes(0.0, clock=lambda: 1.0, is_awaited=is_awaited, stage_began_s={"thinker": 0.0})
    names = ("first_text_seconds", "first_audio_seconds", "thinker_first_token_seconds")
    before = [count(name) for name in names]
    times.tokens()
    times.speech(pcm_bytes=2)
    observed = [count(name) - start for name, start in zip(names, before, strict=True)]
    assert observed == [is_awaited, is_awaited, True]


def test_frames_without_samples_have_no_real_time_factor() -> None:
    times = TurnTimes(0.0, clock=lambda: 1.0, stage_began_s={"thinker": 0.0})
    times.tokens()
    times.speech(pcm_bytes=0)
    before = count("real_time_factor_ratio")
    times.spoken(SpeechDone(SpeechEnd.STOP, 1), 24_000, resumed=False)
    assert count("real_time_factor_ratio") == before


def test_a_cut_keeps_the_token_that_the_talker_was_told_last() -> None:
    answer = Answer(silent_from=9)
    answer.add_tokens([1, 9], is_last=False)
    answer.cut([2])
    assert (answer.token_ids, answer.ended, answer.cut_token_ids) == ([1, 9], True, [])


async def test_closed_media_have_no_bytes() -> None:
    held = HeldMedia([b"sound"])
    assert [chunk async for chunk in held.chunks(0, 3)] == [b"sou", b"nd"]
    await held.close()
    assert [chunk async for chunk in held.chunks(0, 3)] == []


def test_tools_are_refused_where_the_model_calls_none() -> None:
    intent = Intent(names=NAMES, arrived_s=time.monotonic(), messages=user(HELLO), tools="[]")
    with pytest.raises(BadInput, match="calls no tools"):
        check_intent(intent, replace(INSTRUCT, structures_answers=True))


@pytest.mark.parametrize(("tokens_at_s", "rates"), [([1.0, 2.0], 1), ([1.0, 1.0], 0), ([1.0], 0), ([], 0)])
def test_a_rate_of_tokens_needs_two_at_different_times(tokens_at_s: list[float], rates: int) -> None:
    now_s = 0.0
    times = TurnTimes(0.0, clock=lambda: now_s, stage_began_s={"thinker": 0.0})
    for now_s in tokens_at_s:  # noqa: B007  # the clock reads it
        times.tokens()
    before = count("thinker_tokens_per_second")
    times.generated(len(tokens_at_s))
    assert count("thinker_tokens_per_second") - before == rates


def test_a_model_is_found_by_name_or_as_the_only_one() -> None:
    catalogue = Catalogue()
    both = {"tiny-instruct": INSTRUCT, "tiny-thinking": THINKING}
    assert catalogue.find({"tiny-instruct": INSTRUCT}, None) is INSTRUCT
    assert catalogue.find(both, "tiny-instruct") is INSTRUCT
    with pytest.raises(BadInput):
        catalogue.find(both, None)
    with pytest.raises(NotFound) as caught:
        catalogue.find(both, "gpt-4")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_model_whose_workers_are_away_is_not_unknown() -> None:
    catalogue = Catalogue()
    thinking = {"tiny-thinking": THINKING}
    catalogue.find({"tiny-instruct": INSTRUCT, **thinking}, "tiny-thinking")
    with pytest.raises(Unavailable) as caught:
        catalogue.find(thinking, "tiny-instruct")
    assert caught.value.code == "no_worker"


@pytest.mark.parametrize("name", ["tiny-instruct", None])
def test_without_models_no_name_is_called_unknown(name: str | None) -> None:
    with pytest.raises(Unavailable):
        Catalogue().find({}, name)


@pytest.mark.parametrize(
    ("model", "stages", "whole"),
    [
        (INSTRUCT, ALL, True),
        (INSTRUCT, {"preprocess", "thinker"}, False),
        (THINKING, {"preprocess", "thinker"}, True),
        (THINKING, {"thinker"}, False),
    ],
)
def test_a_model_is_complete_with_the_stages_of_its_kind(model: Model, stages: set[str], whole: bool) -> None:
    assert replace(model, stages=frozenset(stages)).is_whole is whole


def user(*parts: Part) -> list[Message]:
    return [Message("user", parts)]


HELLO = TextPart("messages[0].content", "hello")
CLIP = AudioPart("messages[0].content[0]", InlineSource(0))
LOUD = SpeechOptions("Ethan")
WITHOUT_TALKER = replace(INSTRUCT, stages=frozenset({"preprocess", "thinker"}))


def check(
    model: Model,
    messages: list[Message],
    speech: SpeechOptions | None = None,
    max_tokens: int | None = None,
    *,
    use_audio_in_video: bool = False,
    thinks: bool | None = None,
) -> None:
    intent = Intent(
        names=NAMES,
        arrived_s=time.monotonic(),
        messages=messages,
        sampling=Sampling(max_tokens=max_tokens),
        speech=speech,
        use_audio_in_video=use_audio_in_video,
        thinks=thinks,
    )
    check_intent(intent, model)


def test_one_media_item_too_many_is_named() -> None:
    few = replace(INSTRUCT, max_items={"image": 1, "audio": 2, "video": 1})
    film = VideoPart("messages[2].content[1]", InlineSource(0))
    talk = [*user(CLIP), *user(HELLO), *user(CLIP, film)]
    check(few, talk)
    check(INSTRUCT, [*talk, *user(*[CLIP] * 2000)])  # a worker that says no limit has none
    with pytest.raises(BadInput) as caught:
        check(few, talk, use_audio_in_video=True)
    assert (caught.value.code, caught.value.param) == ("too_many_media", "messages[2].content[1]")
    assert "at most 2" in caught.value.message
    silent = VideoPart("messages[2].content[1]", [InlineSource(0), InlineSource(1)])
    check(few, [*user(CLIP), *user(CLIP, silent)], use_audio_in_video=True)
    check(few, [*user(CLIP), *user(CLIP, replace(film, use_audio=False))], use_audio_in_video=True)
    with pytest.raises(BadInput) as caught:
        check(few, user(ImagePart("first", UrlSource("https://a")), ImagePart("second", UrlSource("https://b"))))
    assert caught.value.param == "second"


def test_the_bytes_of_messages_are_those_of_their_text_and_addresses() -> None:
    def size(*parts: Part) -> int:
        return text_bytes([Message("user", parts)])

    assert size(TextPart("p", "aé")) - size(TextPart("p", "")) == 3
    inline, url, file = InlineSource(0), UrlSource("https://é"), FileSource("/a")
    bare = size(AudioPart("p", inline))
    assert (size(AudioPart("p", url)) - bare, size(AudioPart("p", file)) - bare) == (10, 2)
    assert size(VideoPart("p", [url, file])) - size(VideoPart("p", [inline, inline])) == 12


def test_what_a_model_can_do_passes() -> None:
    check(INSTRUCT, user(HELLO, CLIP), LOUD, 1000, thinks=False)
    check(WITHOUT_TALKER, user(HELLO))
    check(THINKING, user(CLIP), thinks=True)
    check(CAPTIONER, user(CLIP))


@pytest.mark.parametrize(
    ("model", "messages", "speech", "max_tokens", "error", "param"),
    [
        (THINKING, user(HELLO), LOUD, None, BadInput, "modalities"),
        (INSTRUCT, user(HELLO), SpeechOptions("alloy"), None, BadInput, "audio.voice"),
        (INSTRUCT, user(HELLO), None, 1001, ContextTooLong, "max_tokens"),
        (CAPTIONER, user(HELLO, CLIP), None, None, BadInput, "messages"),
        (CAPTIONER, user(CLIP, CLIP), None, None, BadInput, "messages"),
        (CAPTIONER, user(HELLO), None, None, BadInput, "messages"),
        (INSTRUCT, [Message("assistant", [CLIP])], None, None, BadInput, "messages[0].content[0]"),
    ],
)
def test_what_a_model_cannot_do_is_refused_from_its_card(
    model: Model,
    messages: list[Message],
    speech: SpeechOptions | None,
    max_tokens: int | None,
    error: type[AntiphonError],
    param: str,
) -> None:
    with pytest.raises(error) as caught:
        check(model, messages, speech, max_tokens)
    assert caught.value.param == param


@pytest.mark.parametrize(("model", "thinks"), [(INSTRUCT, True), (THINKING, False)])
def test_a_model_thinks_always_or_never(model: Model, thinks: bool) -> None:
    with pytest.raises(BadInput) as caught:
        check(model, user(HELLO), thinks=thinks)
    assert caught.value.param == "enable_thinking"


def test_speech_without_a_talker_is_unavailable_and_text_is_not() -> None:
    with pytest.raises(Unavailable) as caught:
        check(WITHOUT_TALKER, user(HELLO), LOUD)
    assert caught.value.code == "no_worker"
    assert caught.value.message == "No talker worker serves this model at the moment."
    check(WITHOUT_TALKER, user(HELLO))


@pytest.mark.parametrize(
    ("prompt", "limit", "fits"), [(999, None, True), (1000, None, False), (990, 10, True), (990, 11, False)]
)
def test_prompt_and_answer_fit_the_model(prompt: int, limit: int | None, fits: bool) -> None:
    if fits:
        check_length(NAMES, INSTRUCT, prompt, limit)
    else:
        with pytest.raises(ContextTooLong) as caught:
            check_length(NAMES, INSTRUCT, prompt, limit)
        assert caught.value.code == "context_length_exceeded"


def test_the_client_gets_the_cause_of_several_failures() -> None:
    cause = BadInput("wrong")
    group = ExceptionGroup("x", [WorkerLost("gone"), ExceptionGroup("y", [ValueError(), cause])])
    assert root_cause(group) is cause
    assert root_cause(ExceptionGroup("x", [ValueError()])) is None
