"""The gateway's settings. services/common/settings.py reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from services.common.channels import GrpcConnections
from services.common.queues.tickets import EVERY_OTHER
from services.gateway.auth import DEFAULT_TENANT
from services.gateway.batches.settings import BatchSettings
from services.gateway.http.presets.routes import Route, RoutePresets
from services.gateway.http.presets.schema import PresetField
from services.gateway.kept.settings import KeptSettings
from services.gateway.known_aliases import MODELS, VOICES
from services.gateway.limits import ConnectionLimits, RealtimeLimits, RequestLimits
from services.gateway.realtime.settings import RealtimeSettings
from services.gateway.realtime.turns.options import TurnLimits
from services.gateway.realtime.webrtc.settings import WebRtcSettings
from services.gateway.tenants import NAME, TenantTermsSettings, check_keys, has_key
from services.gateway.turn.aliases import Aliases, kind_of

# As browsers write it.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._\[\]:-]+")

# How long a drain waits for the end of a turn that is being spoken, at most.
_LAST_TURN_S = 30.0
MIN_SIGNING_KEY_CHARS = 24


class GatewaySettings(BatchSettings, RealtimeSettings, WebRtcSettings, KeptSettings):
    http_host: str = Field(default="127.0.0.1", description="address that the HTTP server binds")
    http_port: int = Field(default=8901, ge=0, le=65535, description="0 = any free port")
    api_key: SecretStr = Field(default=SecretStr(""), description="the key that clients send as a bearer token")
    tenant_keys: dict[str, list[str]] = Field(
        default_factory=dict[str, list[str]],
        description='JSON, tenant → SHA-256 of each of its keys: {"acme": ["<64 digits>"]}; with or without api_key',
    )
    tenant_terms: dict[str, TenantTermsSettings] = Field(
        default_factory=dict[str, TenantTermsSettings],
        description='JSON, tenant or "*" → its terms in each queue: {"acme": {"weight": 2, "priority": 1,'
        ' "max_slots": 8, "max_share": 0.5}}; "*" = all others',
    )
    tenants_file: Path | None = Field(
        default=None,
        description="JSON file, or folder of *.json, in place of tenant_keys and tenant_terms:"
        ' {"acme": ["<64 digits>"], "beta": {"keys": ["<64 digits>"], "weight": 2}}; read again when it changes',
    )
    route_presets: dict[Route, PresetField] = Field(
        default_factory=dict[Route, PresetField],
        description="JSON, route → the preset of requests and sessions that say nothing of one:"
        ' {"realtime": "voice-assistant", "chat": {"name": "translation", "to_language": "de"}}; routes are chat,'
        " responses, dashscope, converse and realtime",
    )
    control_address: str = Field(
        default="",
        pattern=r"^([^\s/:]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$|^$",
        description="host:port of the control plane's gRPC, in place of tenant_keys and tenants_file",
    )
    control_token: SecretStr = Field(
        default=SecretStr(""), description="what the control plane wants of gateways: its ANTIPHON_GATEWAY_TOKEN"
    )
    control_cache_file: Path | None = Field(
        default=None,
        description="the tenants are kept in this file, so that a gateway starts without the control plane",
    )
    control_max_age_s: float = Field(
        default=86400.0,
        ge=1,
        description="how long tenants are used after the control plane was last heard of; then requests get 503",
    )
    usage_records: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="write a usage record of each request to Redis; auto = with a control plane, which has the limits",
    )
    usage_spool_dir: Path | None = Field(
        default=None,
        description="folder for usage records that Redis can't take; empty = they are kept in memory",
    )
    usage_spool_bytes: int = Field(default=64 * 1024**2, ge=0, description="most bytes in it")
    limit_text_tokens: int = Field(
        default=32, ge=1, le=1024, description="answer tokens that are drawn from limits at a time, ahead of delivery"
    )
    limit_audio_ms: int = Field(
        default=1000, ge=80, le=60_000, description="the same for speech, ms; a limit is kept to within one draw"
    )
    client_secret_signing_key: SecretStr = Field(
        default=SecretStr(""),
        description="signs client secrets, the same on all gateways, at least 24 characters; empty = control_token, or"
        " api_key for its own",
    )
    metrics_tenants: int = Field(
        default=50, ge=0, le=1000, description="tenants with series of their own: the first ones with keys"
    )
    allow_anonymous: bool = Field(default=False, description="true = serve without a key; false = a key is required")
    cors_origins: list[str] = Field(
        default_factory=list[str],
        description='JSON, origins of pages that may call the API from a browser: ["https://app.example.org"];'
        ' ["*"] = all, [] = none',
    )
    api_docs: bool = Field(
        default=True,
        description="serve the API's OpenAPI document at /openapi.json and its page at /docs, without a key",
    )
    page: bool = Field(
        default=False,
        description="serve a page to talk to the models at /, without a key; what it asks for needs one as ever",
    )
    voice_aliases: dict[str, str] = Field(
        default_factory=lambda: dict(VOICES),
        description="JSON, names of other servers' voices, in any case → the model's: by default OpenAI's and"
        ' DashScope\'s, as {"alloy": "ethan", "cherry": "chelsie", …}; {} = none',
    )
    model_aliases: dict[str, str] = Field(
        default_factory=lambda: dict(MODELS),
        description="JSON, other names of models, in any case → the model's, or kind:instruct, kind:thinking or"
        ' kind:captioner for the only model of that kind: by default {"qwen3-omni-flash": "kind:instruct",'
        ' "qwen3-omni-flash-realtime": "kind:instruct", "qwen3-omni-30b-a3b-captioner": "kind:captioner"}; {} = none',
    )
    shutdown_delay_s: float = Field(
        default=0.0,
        ge=0,
        le=120,
        description="after SIGTERM the gateway is not ready but serves new requests for so long: until load balancers "
        "have noticed. Then it drains",
    )
    request_timeout_s: float = Field(
        default=600.0, gt=0, le=1800, description="deadline of a request; a client may set a shorter one"
    )
    max_body_bytes: int = Field(default=64 * 1024**2, ge=1024, description="largest request body")
    max_media_bytes: int = Field(default=40 * 1024**2, ge=1, description="largest single media inside a request")
    max_text_bytes: int = Field(
        default=4 * 1024**2, ge=1024, le=12 * 1024**2, description="largest request without its inline media"
    )
    memory_bytes: int = Field(
        default=0,
        ge=0,
        description="memory for the bodies, messages and inline media of all requests; 0 = half of the container's",
    )
    spill_bytes: int = Field(
        default=4 * 1024**3,
        ge=0,
        description="disk for inline media of turns whose prompt is prepared; what finds no room stays in memory_bytes",
    )
    spill_dir: Path | None = Field(
        default=None,
        description="folder for it, on a disk; in it each gateway makes one of its own. Empty = the system's for"
        " temporary files",
    )
    max_header_bytes: int = Field(default=32 * 1024, ge=1024, description="largest HTTP header block")
    max_unauthenticated_connections: int = Field(
        default=1024,
        ge=1,
        description="HTTP connections without a valid key so far; one too many closes the oldest that is idle",
    )
    max_grpc_connections: int = Field(
        default=1024, ge=1, description="gRPC connections, with or without a key; one too many is closed at once"
    )
    idle_timeout_s: float = Field(
        default=75.0,
        gt=0,
        description="how long a connection may be idle; longer than a load balancer keeps it, so that it never uses a"
        " closed one",
    )
    header_timeout_s: float = Field(
        default=15.0, gt=0, description="how long a client may take to send a request's headers, once it has begun"
    )
    body_timeout_s: float = Field(default=60.0, gt=0, description="how long a client may take to send its body")
    keep_alive_s: float = Field(
        default=15.0, gt=0, description="a stream without events gets a comment line this often"
    )
    transcription_piece_s: float = Field(
        default=120.0,
        ge=10,
        le=1200,
        description="longest piece of a recording that is transcribed in pieces: what the model hears at once",
    )
    max_choices: int = Field(
        default=4, ge=1, le=128, description="largest n of a chat request; each choice takes a slot of its own"
    )
    cold_start_s: float = Field(
        default=0.0,
        ge=0,
        le=1800,
        description="how long a request waits for a first worker where all may be scaled to zero; 0 = no wait",
    )
    worker_wait_s: float = Field(
        default=60.0,
        gt=0,
        le=1800,
        description="how long a request waits at least for a stage's next worker after the last one was lost; "
        "longer where its start took more than a third of this",
    )
    max_waiting: int = Field(default=1024, ge=1, description="requests that may wait in one queue")
    max_waiting_per_tenant: int = Field(
        default=0,
        ge=0,
        description="requests of one tenant that may wait in one queue; 0 = where there are several tenants, eight"
        " times the places that are free, so that others always find room",
    )

    @field_validator("tenant_keys")
    @classmethod
    def names_and_hashes(cls, keys: dict[str, list[str]]) -> dict[str, list[str]]:
        check_keys(keys)
        return keys

    @field_validator("client_secret_signing_key", "realtime_session_key")
    @classmethod
    def is_long(cls, key: SecretStr) -> SecretStr:
        if 0 < len(key.get_secret_value()) < MIN_SIGNING_KEY_CHARS:
            raise ValueError(f"give at least {MIN_SIGNING_KEY_CHARS} random characters")
        return key

    @field_validator("model_aliases")
    @classmethod
    def stand_for_models(cls, aliases: dict[str, str]) -> dict[str, str]:
        for target in aliases.values():
            kind_of(target)
        return aliases

    @field_validator("tenant_terms")
    @classmethod
    def names_of_tenants(cls, terms: dict[str, TenantTermsSettings]) -> dict[str, TenantTermsSettings]:
        for place, name in enumerate(terms, 1):
            if name != EVERY_OTHER and not NAME.fullmatch(name):
                raise ValueError(f"tenant {place}: give a tenant's name, or {EVERY_OTHER} for all others")
        return terms

    @field_validator("cors_origins")
    @classmethod
    def are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin[:100]!r} is no origin: give https://host or https://host:port, and no path")
        return origins

    @model_validator(mode="after")
    def key_or_none_on_purpose(self) -> GatewaySettings:
        api_key = self.api_key.get_secret_value()
        if not (api_key or self.tenant_keys or self.tenants_file or self.control_address or self.allow_anonymous):
            raise ValueError(
                "ANTIPHON_API_KEY is required, or ANTIPHON_TENANT_KEYS, or ANTIPHON_TENANTS_FILE, or"
                " ANTIPHON_CONTROL_ADDRESS, or ANTIPHON_ALLOW_ANONYMOUS=true to serve without a key"
            )
        if self.control_address:
            for name, given in (
                ("ANTIPHON_TENANT_KEYS", self.tenant_keys),
                ("ANTIPHON_TENANTS_FILE", self.tenants_file),
                ("ANTIPHON_ALLOW_ANONYMOUS=true", self.allow_anonymous),
            ):
                if given:
                    raise ValueError(f"ANTIPHON_CONTROL_ADDRESS and {name} contradict each other: set one of them")
            if not self.control_token.get_secret_value():
                raise ValueError("ANTIPHON_CONTROL_TOKEN is required with ANTIPHON_CONTROL_ADDRESS")
            if self.usage_records == "off":
                raise ValueError("ANTIPHON_USAGE_RECORDS=off and ANTIPHON_CONTROL_ADDRESS contradict each other")
        elif (self.control_token.get_secret_value() and not self.batches_address) or self.control_cache_file:
            raise ValueError("ANTIPHON_CONTROL_TOKEN and ANTIPHON_CONTROL_CACHE_FILE want ANTIPHON_CONTROL_ADDRESS")
        self._check_batches()
        if self.tenants_file:
            for name, given in (
                ("ANTIPHON_TENANT_KEYS", self.tenant_keys),
                ("ANTIPHON_TENANT_TERMS", self.tenant_terms),
                ("ANTIPHON_ALLOW_ANONYMOUS=true", self.allow_anonymous),
            ):
                if given:
                    raise ValueError(f"ANTIPHON_TENANTS_FILE and {name} contradict each other: set one of them")
        if api_key and self.allow_anonymous:
            raise ValueError(
                "ANTIPHON_API_KEY and ANTIPHON_ALLOW_ANONYMOUS=true contradict each other: set one of them"
            )
        if self.tenant_keys and self.allow_anonymous:
            raise ValueError(
                "ANTIPHON_TENANT_KEYS and ANTIPHON_ALLOW_ANONYMOUS=true contradict each other: set one of them"
            )
        if api_key and has_key(self.tenant_keys, api_key):
            raise ValueError(
                "ANTIPHON_API_KEY is also a tenant's key in ANTIPHON_TENANT_KEYS: give the tenant a key of its own"
            )
        if self.cold_start_s > self.request_timeout_s:
            raise ValueError("ANTIPHON_COLD_START_S is larger than ANTIPHON_REQUEST_TIMEOUT_S")
        if self.max_waiting_per_tenant > self.max_waiting:
            raise ValueError("ANTIPHON_MAX_WAITING_PER_TENANT is larger than ANTIPHON_MAX_WAITING")
        for place, name in enumerate(self.tenant_terms, 1):
            if name not in (EVERY_OTHER, DEFAULT_TENANT, *self.tenant_keys) and not self.control_address:
                raise ValueError(f"ANTIPHON_TENANT_TERMS: tenant {place} has no key in ANTIPHON_TENANT_KEYS")
        return self

    @property
    def aliases(self) -> Aliases:
        return Aliases(
            {alias.lower(): model for alias, model in self.model_aliases.items()},
            {alias.lower(): voice for alias, voice in self.voice_aliases.items()},
        )

    @property
    def has_tenants(self) -> bool:
        """Whether there may be others than the one of `api_key`."""
        return bool(self.tenant_keys or self.tenants_file or self.control_address)

    @property
    def meters(self) -> bool:
        """Whether requests have accounts: they are limited, and written down."""
        return self.usage_records == "on" or (self.usage_records == "auto" and bool(self.control_address))

    def _check_batches(self) -> None:
        if self.object_store_url:
            if not (self.control_address or self.batches_address):
                raise ValueError("ANTIPHON_OBJECT_STORE_URL wants ANTIPHON_CONTROL_ADDRESS or ANTIPHON_BATCHES_ADDRESS")
            if not self.control_token.get_secret_value():
                raise ValueError("ANTIPHON_CONTROL_TOKEN is required with ANTIPHON_OBJECT_STORE_URL")
        else:
            for name, given in (
                ("ANTIPHON_BATCHES_ADDRESS", self.batches_address),
                ("ANTIPHON_OBJECT_STORE_ENDPOINT", self.object_store_endpoint),
                ("ANTIPHON_OBJECT_STORE_KEY", self.object_store_key),
            ):
                if given:
                    raise ValueError(f"{name} wants ANTIPHON_OBJECT_STORE_URL")
        if self.kept_answers_audio and not (self.object_store_url and self.kept_answers_s and self.spill_bytes):
            raise ValueError(
                "ANTIPHON_KEPT_ANSWERS_AUDIO wants ANTIPHON_OBJECT_STORE_URL, and neither ANTIPHON_KEPT_ANSWERS_S nor"
                " ANTIPHON_SPILL_BYTES may be 0"
            )
        if bool(self.object_store_key) != bool(self.object_store_secret.get_secret_value()):
            raise ValueError("ANTIPHON_OBJECT_STORE_KEY and ANTIPHON_OBJECT_STORE_SECRET want each other")

    @property
    def client_secret_root(self) -> bytes:
        """What signs client secrets; b"" = only those of `api_key` can be signed, with that."""
        shared = self.control_token.get_secret_value() if self.control_address else ""
        return (self.client_secret_signing_key.get_secret_value() or shared).encode()

    @property
    def presets_of_routes(self) -> RoutePresets:
        return {route: preset.asked for route, preset in self.route_presets.items()}

    @property
    def connection_limits(self) -> ConnectionLimits:
        return ConnectionLimits(
            max_header_bytes=self.max_header_bytes,
            header_timeout_s=self.header_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            max_unauthenticated=self.max_unauthenticated_connections,
            max_event_bytes=self.realtime_max_event_bytes,
        )

    @property
    def realtime_limits(self) -> RealtimeLimits:
        return RealtimeLimits(
            max_sessions=self.realtime_max_sessions,
            idle_timeout_s=self.realtime_idle_timeout_s,
            max_session_s=self.realtime_max_session_s,
            lead_s=self.realtime_lead_s,
            reads_ahead=self.realtime_prefill,
            max_conversation_bytes=self.max_body_bytes,
            max_media_bytes=self.max_media_bytes,
            max_text_bytes=self.max_text_bytes,
            send_timeout_s=self.body_timeout_s,
            last_turn_s=min(_LAST_TURN_S, self.drain_s / 2),  # the other half is for its answer
            are_shared=self.has_tenants,
            turns=TurnLimits(
                interrupt_speech_ms=self.realtime_interrupt_speech_ms,
                back_channel_ms=self.realtime_back_channel_ms,
                eager_silence_ms=self.realtime_eager_silence_ms,
                eager_tries=self.realtime_eager_tries,
                judgements_per_minute=self.realtime_judgements_per_minute,
            ),
        )

    @property
    def grpc_connections(self) -> GrpcConnections:
        return GrpcConnections(
            most=self.max_grpc_connections,
            max_message_bytes=self.limits.max_message_bytes,
            idle_s=self.idle_timeout_s,
            longest_call_s=self.request_timeout_s,
        )

    @property
    def limits(self) -> RequestLimits:
        return RequestLimits(
            max_body_bytes=self.max_body_bytes,
            max_media_bytes=self.max_media_bytes,
            max_text_bytes=self.max_text_bytes,
            body_timeout_s=self.body_timeout_s,
            request_timeout_s=self.request_timeout_s,
            keep_alive_s=self.keep_alive_s,
            max_choices=self.max_choices,
        )
