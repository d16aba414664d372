"""Settings of realtime sessions."""

from __future__ import annotations

from pydantic import Field, SecretStr

from services.common.settings import ServiceSettings


class RealtimeSettings(ServiceSettings):
    realtime_session_key: SecretStr = Field(
        default=SecretStr(""),
        description="encrypts realtime sessions in Redis, the same on all gateways, at least 24 characters; empty = a"
        " session ends with its connection",
    )
    realtime_max_sessions: int = Field(
        default=256, ge=1, le=100_000, description="realtime sessions of one gateway; one too many gets 429"
    )
    realtime_idle_timeout_s: float = Field(
        default=300.0, gt=0, description="a realtime session ends after so long without an event or a response"
    )
    realtime_max_session_s: float = Field(default=3600.0, gt=0, le=86_400, description="longest realtime session")
    realtime_max_event_bytes: int = Field(
        default=4 * 1024**2, ge=65_536, le=64 * 1024**2, description="largest event of a realtime client"
    )
    realtime_lead_s: float = Field(
        default=2.0, ge=0, le=600, description="how far the audio of a realtime answer may be ahead of real time"
    )
    realtime_interrupt_speech_ms: int = Field(
        default=300,
        ge=0,
        le=5000,
        description="a sound over a realtime answer that is shorter does nothing: a cough, a hum",
    )
    realtime_back_channel_ms: int = Field(
        default=500,
        ge=0,
        le=5000,
        description="a longer sound over a realtime answer that is shorter than this holds it, and interrupts it where"
        ' the model says that it is meant to: a "stop" and no "uh-huh"; 0 = none is held, all interrupt',
    )
    realtime_eager_silence_ms: int = Field(
        default=200,
        ge=0,
        le=5000,
        description="silence after which a realtime response is begun and held back until the turn is over; 0 = never",
    )
    realtime_eager_tries: int = Field(
        default=2, ge=0, le=100, description="how often that is done in one turn: what the user goes on after is wasted"
    )
    realtime_judgements_per_minute: int = Field(
        default=30,
        ge=0,
        le=1000,
        description="pauses of one realtime session that the model judges in any minute, which costs the client"
        " nothing; beyond that silence alone ends a turn",
    )
    realtime_prefill: bool = Field(
        default=True,
        description="whether the thinker reads what a user says while they speak, 8 s at a time, where slots are free",
    )
    realtime_kept_tenant_bytes: int = Field(
        default=64 * 1024**2,
        ge=64 * 1024,
        description="what kept realtime sessions of one tenant may take in Redis; then its oldest items make room",
    )
    realtime_kept_bytes: int = Field(
        default=128 * 1024**2,
        ge=64 * 1024,
        description="what all kept realtime sessions may take in Redis; then items of the tenant that has the most make"
        " room",
    )
