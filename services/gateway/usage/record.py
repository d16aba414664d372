"""What a turn used, as its record says it and as the counts of lua/ know it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

from antiphon.v1 import usage_pb2
from services.gateway.turn.amounts import DISCARDED, Amounts
from services.gateway.turn.not_begun import NotBegun
from services.gateway.turn.ports import TurnProgress
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.operations import SoFar, Vector
from services.gateway.usage.prices import Tariff

LOST = "lost"
"""The outcome of a turn that its gateway did not end."""


@dataclass(slots=True)
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
    of_many = _fields(
        principal.organisation_id,
        principal.project_id,
        principal.tenant,
        principal.key_id,
        request.model.name,
        request.intent.kind,
        if_lost,
        gateway_id,
    )
    own = usage_pb2.UsageRecord(turn_id=request.request_id, began_unix_ms=began_unix_ms, ended_unix_ms=began_unix_ms)
    return TurnFacts(tariff, began_unix_ms, of_many + own.SerializeToString(), if_lost)


@lru_cache(1024)
def _fields(
    organisation_id: str,
    project_id: str,
    tenant: str,
    key_id: str,
    model: str,
    kind: str,
    outcome: str,
    gateway: str,
) -> bytes:
    """Return fields that are the same in most records of a key, serialized."""
    record = usage_pb2.UsageRecord(
        organisation_id=organisation_id,
        project_id=project_id,
        tenant=tenant,
        key_id=key_id,
        model=model,
        kind=kind,
        outcome=outcome,
        gateway=gateway,
    )
    return record.SerializeToString()


def at_first(facts: TurnFacts, *, counts: bool) -> SoFar:
    """Return `so_far` of a turn that has used nothing but its request."""
    if "requests" in facts.tariff.prices or facts.if_lost == DISCARDED:
        return so_far(facts, NotBegun(), counts=counts)
    return SoFar({"requests": 1} if counts else {}, facts.head)


def so_far(facts: TurnFacts, progress: TurnProgress, *, counts: bool, outcome: str = "", limit: str = "") -> SoFar:
    """Return what a turn has used up to now, which counts as one request. One that was discarded counts as none.

    `counts`: something counts its units; else there are none in what is returned. `outcome`: "" = it is lost now.
    """
    outcome = outcome or facts.if_lost
    requests = 0 if outcome == DISCARDED else 1
    amounts, attempts, derailment = progress.amounts(), progress.attempts, progress.derailment
    rest = usage_pb2.UsageRecord(
        ended_unix_ms=max(round(time.time() * 1000), facts.began_unix_ms),
        outcome=outcome,
        limit=limit,
        amounts=usage_pb2.Amounts(**amounts.used),
        attempts=attempts,
        derailment=derailment.value if derailment is not None else "",
        spoken_again=progress.spoken_again,
    )
    micros = 0
    if facts.tariff.prices:
        cost = facts.tariff.cost(amounts, requests=requests)
        rest.cost_micros = micros = cost.micros
        rest.price_ids.extend(cost.price_ids)
    record = facts.head + rest.SerializeToString()
    return SoFar(_units(requests, amounts, micros) if counts else {}, record, micros)


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
