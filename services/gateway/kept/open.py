"""Opens what the gateway keeps in Redis for a while, as its settings say."""

from __future__ import annotations

from services.common.memory_budget import MemoryBudget
from services.common.redis_client import RedisClient
from services.gateway.http.responses.kept import KeptResponses
from services.gateway.idempotency.claims import Claims
from services.gateway.idempotency.keys import IdempotencyKeys
from services.gateway.kept.answers import KeptAnswers
from services.gateway.kept.audio import AnswerAudio
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from services.gateway.realtime.kept.sealer import Sealer
from services.gateway.realtime.kept.sessions import KeptSessions
from services.gateway.settings import GatewaySettings


def open_responses(settings: GatewaySettings, redis: RedisClient) -> KeptResponses:
    if not settings.kept_responses_s:
        return KeptResponses(None, settings.kept_response_bytes)
    limits = KeptLimits(settings.kept_responses_s, settings.kept_responses_tenant_bytes, settings.kept_responses_bytes)
    return KeptResponses(RedisKept(redis, "response", limits), settings.kept_response_bytes)


def open_kept_sessions(settings: GatewaySettings, redis: RedisClient) -> KeptSessions | None:
    key = settings.realtime_session_key.get_secret_value()
    if not key:
        return None
    limits = KeptLimits(
        settings.realtime_max_session_s, settings.realtime_kept_tenant_bytes, settings.realtime_kept_bytes
    )
    return KeptSessions(RedisKept(redis, "session", limits), Sealer(key))


def open_answers(settings: GatewaySettings, redis: RedisClient, audio: AnswerAudio | None) -> KeptAnswers:
    if not settings.kept_answers_s:
        return KeptAnswers(None)
    limits = KeptLimits(settings.kept_answers_s, settings.kept_answers_tenant_bytes, settings.kept_answers_bytes)
    return KeptAnswers(RedisKept(redis, "answer", limits), audio)


def open_idempotency(settings: GatewaySettings, redis: RedisClient, memory: MemoryBudget) -> IdempotencyKeys | None:
    if not settings.idempotency_s:
        return None
    limits = KeptLimits(settings.idempotency_s, settings.idempotency_tenant_bytes, settings.idempotency_bytes)
    return IdempotencyKeys(
        Claims(redis),
        RedisKept(redis, "idempotency", limits),
        memory,
        response_bytes=settings.idempotency_response_bytes,
    )
