"""The result of a run, as it is printed and stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.chaos.figures import spread
from bench.conversation_losses.client import Conversation
from bench.conversation_losses.plan import STORY
from bench.conversation_losses.run import Result

_SHOWN = 20


def problems_of(conversation: Conversation) -> Sequence[str]:
    """Return what is not as it must be."""
    if conversation.error:
        return [conversation.error]
    used, after = conversation.resumed["antiphon_usage"], conversation.after["antiphon_usage"]
    of_last = conversation.last.response["usage"] if conversation.last.response is not None else {}
    first, heard = STORY.frames, STORY.frames + conversation.cut.frames
    checks = {
        "no worker was lost": conversation.plan.lost_worker.is_set(),
        "it is another session": conversation.resumed["id"] == conversation.session_id,
        "it ends at another time": conversation.resumed["expires_at"] == conversation.expires_at,
        "it has lost its settings": conversation.resumed["instructions"] == conversation.plan.instructions,
        "the answer that was cut is not marked so": conversation.kept.get("status") == "incomplete",
        "the answer that was cut is not the beginning of it": _is_beginning(conversation.kept_text),
        f"the model read something else than is kept: {_read(conversation)}": _read_what_is_kept(conversation),
        "what was used before is not counted": first <= _frames(used) <= max(heard, STORY.frames + first),
        "what is used is not counted on": after["total_tokens"] - used["total_tokens"] == of_last.get("total_tokens"),
        f"the next answer is not whole, but {conversation.last.ended}": conversation.last.is_whole,
    }
    return [problem for problem, holds in checks.items() if not holds]


def _read_what_is_kept(conversation: Conversation) -> bool:
    return ("assistant", conversation.kept_text) in conversation.read


def _read(conversation: Conversation) -> str:
    words = [f"{role} {len(text.split())}" for role, text in conversation.read]
    return f"{len(conversation.kept_text.split())} words are kept, and it read {', '.join(words)}"


def _is_beginning(text: str) -> bool:
    return bool(text) and text != STORY.text and STORY.text.startswith(text)


def _frames(usage: dict[str, dict[str, int]]) -> int:
    return usage["output_token_details"]["audio_tokens"]


def problems(result: Result) -> Sequence[str]:
    found = [
        f"conversation {each.plan.number}: {problem}" for each in result.conversations for problem in problems_of(each)
    ]
    if result.surplus_places > 0:
        found.append(f"sessions had {result.surplus_places} places more than there were sessions")
    return found


def figures(result: Result) -> dict[str, object]:
    went_on = [each for each in result.conversations if not each.error]
    return {
        "conversations": len(result.conversations),
        "workers_lost": dict(Counter(each.plan.stage for each in went_on if each.plan.lost_worker.is_set())),
        "gateways_lost": result.gateways_lost,
        "as_if_no_worker_had_been_lost": sum(each.first.is_whole for each in result.conversations),
        "resumed_and_answered": sum(each.last.is_whole for each in went_on),
        "without_a_problem": sum(not problems_of(each) for each in result.conversations),
        "surplus_places": result.surplus_places,
        "resumed_after_s": spread([each.resumed_s - each.lost_s for each in went_on]),
        "next_answer_whole_after_s": spread([each.answered_s - each.lost_s for each in went_on]),
        "heard_and_not_kept_s": spread([each.unkept_ms / 1000 for each in went_on]),
        "problems": list(problems(result))[:_SHOWN],
    }
