"""What a turn used, as its record says it and as the counts of lua/ know it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from antiphon.v1 import usage_pb2
from services.gateway.turn.amounts import DISCARDED, Amounts
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.operations import SoFar, Vector
from services.gateway.usage.prices import Tariff

LOST = "lost"
"""The outcome of a turn that its gateway did not end."""


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """What a record says of a turn from its beginning. `head`: those fields of it, serialized, as if the turn was lost
    then. Another part of the record may follow, for that is how protobuf merges messages.

    `if_lost`: the outcome then.
    """

    tariff: Tariff
    began_unix_ms: int
    head: bytes
    if_lost: str


def facts_of(request: TurnRequest, tariff: Tariff, gateway_id: str, began_unix_ms: int) -> TurnFacts:
    principal = request.principal
    if_lost = DISCARDED if request.intent.is_free else LOST
    head = usage_pb2.UsageRecord(
        turn_id=request.request_id,
        organisation_id=principal.organisation_id,
        project_id=principal.project_id,
        tenant=principal.tenant,
        key_id=principal.key_id,
        model=request.model.name,
        kind=request.intent.kind,
        began_unix_ms=began_unix_ms,
        ended_unix_ms=began_unix_ms,
        outcome=if_lost,
        gateway=gateway_id,
    )
    return TurnFacts(tariff, began_unix_ms, head.SerializeToString(), if_lost)


def at_first(facts: TurnFacts, *, counts: bool) -> SoFar:
    """Return `so_far` of a turn that has used nothing but its request."""
    if "requests" in facts.tariff.prices or facts.if_lost == DISCARDED:
        return so_far(facts, Amounts(), counts=counts, attempts=0)
    return SoFar({"requests": 1} if counts else {}, facts.head)


def so_far(
    facts: TurnFacts, amounts: Amounts, *, counts: bool, attempts: int, outcome: str = "", limit: str = ""
) -> SoFar:
    """Return what a turn has used up to now, which counts as one request. One that was discarded counts as none.

    `counts`: something counts its units; else there are none in what is returned. `outcome`: "" = it is lost now.
    """
    outcome = outcome or facts.if_lost
    requests = 0 if outcome == DISCARDED else 1
    cost = facts.tariff.cost(amounts, requests=requests)
    rest = usage_pb2.UsageRecord(
        ended_unix_ms=max(round(time.time() * 1000), facts.began_unix_ms),
        outcome=outcome,
        limit=limit,
        amounts=usage_pb2.Amounts(**amounts.by_name),
        attempts=attempts,
        cost_micros=cost.micros,
        price_ids=cost.price_ids,
    )
    record = facts.head + rest.SerializeToString()
    return SoFar(_units(requests, amounts, cost.micros) if counts else {}, record, cost.micros)


def _units(requests: int, amounts: Amounts, micros: int) -> Vector:
    """Return those that are not 0."""
    units = {
        "requests": requests,
        "prompt_tokens": amounts.prompt_tokens,
        "answer_tokens": amounts.completion_text_tokens,
        "tokens": amounts.tokens,
        "audio_in_ms": amounts.audio_in_ms,
        "audio_out_ms": amounts.audio_out_ms,
        "audio_ms": amounts.audio_ms,
        "micros": micros,
    }
    return {metric: count for metric, count in units.items() if count}
