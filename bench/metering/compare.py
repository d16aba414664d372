"""Compares what clients received with the records of the database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from bench.metering.plan import LIMITS, SPEECH_DRAW, STORY, TEXT_DRAW
from bench.metering.received import Received
from bench.metering.run import Result
from bench.metering.system import PRICES
from services.control.store.models import UsageRow

_SUMMED = ("completion_text_tokens", "completion_audio_tokens", "prompt_text_tokens", "prompt_audio_tokens")


def problems(result: Result) -> list[str]:
    """Return what does not hold, in words."""
    rows: dict[str, list[UsageRow]] = defaultdict(list)
    for row in result.rows:
        rows[row.turn_id].append(row)
    found: list[str] = []
    for received in result.received:
        if received.turn_id:
            found += [f"{_named(received)}: {what}" for what in _of_turn(received, rows.pop(received.turn_id, []))]
    found += _strangers([row for some in rows.values() for row in some], result.received)
    found += [f"{row.turn_id}: costs {row.cost_micros}" for row in result.rows if row.cost_micros != _cost(row)]
    for name in (*_SUMMED, "cost_micros"):
        records = sum(getattr(row, name) for row in result.rows)
        if result.sums.get(name, 0) != records:
            found.append(f"the sums of days have {result.sums.get(name)} {name}, the records {records}")
    if result.rejected:
        found.append(f"{result.rejected} records were rejected")
    return found + [what for received in result.received for what in _limits(received, result)]


def figures(result: Result) -> dict[str, Any]:
    received = result.received
    met_death = [one for one in received if one.met_death]
    by_id = {row.turn_id: row for row in result.rows}
    left = [one for one in received if one.plan.way == "whole" and one.ended == "cancelled"]
    paid = [row for turn_id, row in by_id.items() if turn_id not in {one.turn_id for one in left}]
    pairs = [(one, by_id[one.turn_id]) for one in met_death if one.turn_id in by_id]
    return {
        "requests": len(received),
        "ended": dict(Counter(one.ended for one in received)),
        "ways": dict(Counter(one.plan.way for one in received)),
        "planned_ends": dict(Counter(one.plan.end or "by itself" for one in received)),
        "records": len(result.rows),
        "outcomes": dict(Counter(row.outcome for row in result.rows)),
        "resumed": sum(row.attempts > 3 for row in result.rows),
        "text_tokens": {
            "received": sum(one.text_tokens for one in received),
            "recorded": sum(row.completion_text_tokens for row in paid),
        },
        "frames": {
            "received": sum(one.frames for one in received),
            "recorded": sum(row.completion_audio_tokens for row in paid),
        },
        "left_before_a_whole_answer": {
            "requests": len(left),
            "recorded_text_tokens": sum(
                by_id[one.turn_id].completion_text_tokens for one in left if one.turn_id in by_id
            ),
        },
        "of_killed_gateways": {
            "requests": len(met_death),
            "with_a_record": len(pairs),
            "most_text_tokens_off": max(
                (one.text_tokens - row.completion_text_tokens for one, row in pairs), default=0
            ),
            "most_frames_off": max((one.frames - row.completion_audio_tokens for one, row in pairs), default=0),
        },
        "losses": [loss.what for loss in result.losses],
    }


def _named(received: Received) -> str:
    plan = received.plan
    kind = f"{plan.way}{', spoken' if plan.speaks else ''}{', heard' if plan.hears else ''}"
    return f"{received.turn_id} ({kind}, planned end {plan.end or 'its own'}, {received.ended} {received.error})"


def _of_turn(received: Received, rows: Sequence[UsageRow]) -> list[str]:
    if len(rows) > 1:
        return [f"{len(rows)} records"]
    has_nothing = not (received.text_tokens or received.frames)
    if not rows:
        may_have_none = received.ended == "refused" or (received.met_death and has_nothing)
        return [] if may_have_none else ["no record"]
    row, plan = rows[0], received.plan
    text, frames, prompt = row.completion_text_tokens, row.completion_audio_tokens, _prompt(row)
    told = f"received {received.text_tokens} tokens and {received.frames} frames, recorded {text} and {frames}"
    if plan.way == "whole" and received.ended == "cancelled":  # what was made counts
        made = (48, plan.after) if plan.speaks else (plan.after, 0)
        return [] if text <= made[0] and frames <= made[1] else [f"made were {made}, {told}"]
    if received.met_death:
        text_off, frames_off = received.text_tokens - text, received.frames - frames
        # A session's client does not see that the text's last token, its end, was sent.
        unseen = int(plan.way == "realtime" and received.text_tokens == STORY.words)
        fits = -unseen <= text_off <= TEXT_DRAW and 0 <= frames_off <= SPEECH_DRAW
        if plan.way == "whole":  # it is sent at once
            fits = (text, frames) in ((0, 0), (received.text_tokens, received.frames))
        return [] if fits else [f"its gateway was killed: {told}"]
    found: list[str] = []
    if (text, frames) != (received.text_tokens, received.frames):
        found.append(told)
    expected = 0 if has_nothing else received.prompt_tokens if received.prompt_tokens >= 0 else 3 + 3 * plan.hears
    if plan.way != "speech" and prompt != expected:
        found.append(f"a prompt of {expected} tokens, recorded {prompt}")
    return found


def _strangers(rows: Sequence[UsageRow], received: Sequence[Received]) -> list[str]:
    """Say what is wrong with records of turns whose clients never learned an id: they received nothing."""
    found = [f"{row.turn_id}: recorded {row.outcome}, but nobody received it" for row in rows if _amounts(row)]
    unknown = sum(not one.turn_id for one in received)
    if len(rows) > unknown:
        found.append(f"{len(rows)} records of unknown turns, but only {unknown} clients learned no id")
    return found


def _limits(received: Received, result: Result) -> list[str]:
    """Say where an answer was not cut at its limit, within one draw. A limit on a minute begins anew with Redis."""
    if received.plan.end not in LIMITS or received.ended != "ok" or received.met_death:
        return []
    kind, most = LIMITS[received.plan.end]
    emptied = [loss for loss in result.losses if loss.what == "redis"]
    if any(loss.ended_s > received.began_s and loss.began_s < received.ended_s for loss in emptied):
        return []
    used, draw = {
        "text": (received.text_tokens, TEXT_DRAW),
        "speech": (80 * received.frames, 80 * SPEECH_DRAW),
        "day": (received.text_tokens + received.frames + received.prompt_tokens, TEXT_DRAW + SPEECH_DRAW),
    }[received.plan.end]
    if most - draw <= used <= most and received.limit in (kind, ""):
        return []
    return [f"{_named(received)}: used {used} of {most} {kind}, cut by {received.limit or 'nothing'}"]


def _prompt(row: UsageRow) -> int:
    return row.prompt_text_tokens + row.prompt_audio_tokens


def _amounts(row: UsageRow) -> int:
    return _prompt(row) + row.completion_text_tokens + row.completion_audio_tokens


def _cost(row: UsageRow) -> int:
    return sum(micros * getattr(row, kind) for kind, micros in PRICES.items())
