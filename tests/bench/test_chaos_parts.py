"""The chaos bench's own parts: it must see what is wrong, and lose only what it may."""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.chaos.answer import ReceivedAnswer, differences
from bench.chaos.figures import Run, figures, holds
from bench.chaos.killer import Loss
from bench.chaos.leftovers import SHARED_MEMORY, Idle, processes_left, shared_memory_left, shared_memory_of
from bench.chaos.load import Asked
from bench.chaos.pauses import pauses, unexplained, untouched
from bench.chaos.questions import QUESTIONS
from bench.chaos.resumes import Resume
from bench.chaos.victims import SERVER, Victim, Worker, may_lose, pick
from tests.fixtures.processes import children, kill_group
from tests.fixtures.wait import wait_until

SAMPLES = np.array([0, 100, -200, 32_767], np.int16)
HEARD = ReceivedAnswer([1, 2], "ab", [3, 4], SAMPLES.tobytes(), "stop", (5, 2, 1))
STREAM = QUESTIONS[0]
THINKER = Victim("thinker", "thinker-0", 10, SERVER, 10)
TALKER = Victim("talker", "talker-0", 20, SERVER, 20)


def shifted(by: int) -> bytes:
    return (SAMPLES - np.array([0, by, 0, 0], np.int16)).tobytes()


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (HEARD, []),
        (replace(HEARD, pcm=shifted(3)), []),
        (replace(HEARD, pcm=shifted(4)), ["samples"]),
        (replace(HEARD, pcm=SAMPLES[:-1].tobytes()), ["samples"]),
        (replace(HEARD, pcm=b""), ["samples"]),
        (replace(HEARD, token_ids=[1, 2, 2]), ["tokens"]),
        (replace(HEARD, text="a"), ["text"]),
        (replace(HEARD, codes=[4, 3]), ["codes"]),
        (replace(HEARD, finish_reason="length"), ["end"]),
        (replace(HEARD, usage=(5, 3, 1)), ["usage"]),
    ],
)
def test_what_differs_from_the_reference_is_found(answer: ReceivedAnswer, wrong: list[str]) -> None:
    assert differences(answer, HEARD) == wrong


def test_a_worker_is_lost_only_while_its_whole_stage_is_ready_and_known() -> None:
    thinkers = [Worker("thinker", f"thinker-{index}", 10 + index) for index in range(2)]
    talkers = [Worker("talker", f"talker-{index}", 20 + index) for index in range(2)]
    everybody: dict[int, int] = {10: 0, 11: 0, 20: 0, 21: 0}
    assert may_lose([*thinkers, *talkers], everybody, 2) == [*thinkers, *talkers]
    assert may_lose([*thinkers, talkers[0]], everybody, 2) == thinkers
    assert may_lose([*thinkers, *talkers], {10: 0, 20: 0, 21: 1}, 2) == [talkers[0], replace(talkers[1], busy=1)]
    assert may_lose([talkers[0]], everybody, 1) == [talkers[0]]


async def test_every_process_of_a_worker_is_picked() -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '1000']).wait()"
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", script, start_new_session=True)
    try:
        await wait_until(lambda: children(worker.pid))
        chance = random.Random(0)
        picked = {pick([Worker("talker", "talker", worker.pid)], chance).pid for _ in range(50)}
        assert picked == {worker.pid, *children(worker.pid)}
    finally:
        await kill_group(worker)


async def test_a_process_that_is_left_of_a_session_is_found() -> None:
    left = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    try:
        await wait_until(lambda: processes_left({left.pid}) == ["sleep 1000"])
    finally:
        await kill_group(left)
    await wait_until(lambda: not processes_left({left.pid}))


def asked(trace_id: str, texts_at_s: list[float], speech_at_s: list[float] | None = None) -> Asked:
    answer = replace(HEARD, texts_at_s=texts_at_s, speech_at_s=speech_at_s or [])
    return Asked(STREAM, trace_id, 100.0, 110.0, answer, "", 0, [])


def test_a_pause_is_the_longest_gap_from_the_loss_on() -> None:
    loss = Loss(THINKER, "kill", 103.0)
    stream = asked("a", [101.0, 102.9, 103.1, 103.8, 104.0, 109.9])
    resume = Resume("a", "thinker", "lost", 103.2)
    (pause,) = pauses([stream], [resume], [loss])
    assert pause.began
    assert pause.seconds == pytest.approx(5.9)
    (longest_before,) = pauses([asked("a", [101.0, 102.9, 103.4, *range(104, 110)])], [resume], [loss])
    assert longest_before.seconds == pytest.approx(1.0)


def test_each_loss_of_a_stream_has_its_own_pause_by_what_its_stage_makes() -> None:
    losses = [Loss(TALKER, "kill", 102.0), Loss(THINKER, "stop", 105.0)]
    stream = asked("a", [100.5, 104.0, 105.0, 109.0], [101.0, 102.4, 103.0, 109.5])
    resumes = [Resume("a", "talker", "lost", 102.1), Resume("a", "thinker", "lost", 105.1)]
    by_stage = {pause.loss.victim.stage: pause.seconds for pause in pauses([stream], resumes, losses)}
    assert by_stage == {"talker": pytest.approx(6.5), "thinker": pytest.approx(4.0)}


def test_a_stream_that_had_not_begun_waits_from_the_loss_to_its_first_part() -> None:
    resume = Resume("a", "thinker", "lost", 100.6)
    (pause,) = pauses([asked("a", [102.0, 102.1])], [resume], [Loss(THINKER, "kill", 100.5)])
    assert not pause.began
    assert pause.seconds >= 1.5


def test_streams_that_no_loss_touched_have_no_pause() -> None:
    loss = Loss(THINKER, "kill", 101.5)
    stream = asked("b", [101.0, 103.0, 104.0])
    assert pauses([stream], [Resume("a", "thinker", "lost", 101.6)], [loss]) == []
    assert untouched([stream], [Resume("a", "thinker", "lost", 101.6)]) == [pytest.approx(2.0)]
    early = Resume("b", "talker", "lost", 101.6)
    assert unexplained([early], [loss]) == [early]


@pytest.mark.parametrize(
    ("run", "good"),
    [
        (Run(asked=[asked("a", [101.0])]), True),
        (Run(asked=[replace(asked("a", []), answer=None, error="APIError: worker_lost")]), False),
        (Run(asked=[replace(asked("a", []), wrong=["samples"])]), False),
        (Run(asked=[replace(asked("a", []), turned_away=1)]), False),
        (Run(asked=[replace(asked("a", []), turned_away=1)], replicas=1), True),
        (Run(idle=Idle(slots_lost={"talker": 1})), False),
        (Run(idle=Idle(held={"thinker-0 antiphon_thinker_hidden_states_bytes": 4.0})), False),
        (Run(left={"processes": ["python -m services.talker"]}), False),
    ],
)
def test_a_run_holds_only_if_nothing_is_broken_wrong_or_left(run: Run, good: bool) -> None:
    assert holds(run) == good


def test_the_figures_count_what_is_broken_wrong_and_lost() -> None:
    broken = replace(asked("a", []), answer=None, error="APIError: worker_lost")
    wrong = replace(asked("b", []), wrong=["samples", "usage"])
    told = figures(Run(asked=[broken, wrong, asked("c", [])], idle=Idle(slots_lost={"talker": 2})))
    assert told["broken_streams"] == 1
    assert told["wrong"] == {"tokens": 1, "codes": 0, "samples": 1}
    assert told["slots_lost"] == 2


def test_the_mix_has_text_speech_and_media_both_ways_greedy_and_seeded() -> None:
    for over in ("http", "grpc"):
        cases = [question.case for question in QUESTIONS if question.over == over]
        assert {bool(case.voice) for case in cases} == {True, False}
        assert {case.temperature > 0 for case in cases} == {True, False}
        assert any(len(turn.parts) > 1 for case in cases for turn in case.turns)
    assert {question.streamed for question in QUESTIONS} == {True, False}
    assert len({question.name for question in QUESTIONS}) == len(QUESTIONS)


HOLD = """
import multiprocessing, signal
multiprocessing.set_start_method("spawn")
lock = multiprocessing.Lock()
print(lock._semlock.name, flush=True)
signal.pause()
"""


async def test_shared_memory_that_a_killed_process_leaves_is_found() -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert holder.stdout is not None
    name = f"sem.{(await holder.stdout.readline()).decode().strip().removeprefix('/')}"
    used = shared_memory_of({holder.pid})
    await kill_group(holder)  # the tracker that would remove it, too
    assert shared_memory_left(used) == [name]
    (SHARED_MEMORY / name).unlink()
    assert shared_memory_left(used) == []
