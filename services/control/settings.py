"""The control plane's settings. services/common/settings.py reads them."""

from __future__ import annotations

from pydantic import AnyHttpUrl, Field, SecretStr, TypeAdapter, ValidationError, field_validator, model_validator

from services.common.redis_url import RedisUrl, parse_redis_url
from services.common.settings import ProcessSettings
from services.control.batches.limits import BatchLimits
from services.control.store.database_url import DatabaseUrl, parse_database_url

MIN_SECRET_CHARS = 24
"""A shorter key or token could be guessed, and its hash reversed."""


class ControlSettings(ProcessSettings):
    http_host: str = Field(default="127.0.0.1", description="address that the Admin API binds")
    http_port: int = Field(default=8902, ge=0, le=65535, description="0 = any free port")
    database_url: str = Field(
        default="",
        repr=False,  # it may hold a password
        description="postgresql://user@host/database, or sqlite:///folder/file.db; empty = SQLite in the user's data"
        " folder ($XDG_DATA_HOME/antiphon/control.db)",
    )
    database_password: SecretStr = Field(
        default=SecretStr(""),
        validate_default=True,
        description="password of the database, where database_url holds none; any characters, none escaped",
    )
    migrate_on_start: bool = Field(
        default=True, description="false = refuse to start on an older schema; python -m services.control migrate"
    )
    bootstrap_admin_key: SecretStr = Field(
        default=SecretStr(""),
        description="the first admin key, at least 24 characters; another one replaces it. Empty = it stays as it is",
    )
    gateway_token: SecretStr = Field(description="what gateways show to receive tenants; at least 24 characters")
    look_s: float = Field(
        default=0.25, gt=0, le=5, description="time between two looks for changes that another replica made"
    )
    heartbeat_s: float = Field(
        default=2.0, gt=0, le=5, description="how often gateways are told that their tenants are the latest"
    )

    redis_url: str = Field(
        default="",
        repr=False,  # it may hold a password
        description="the gateways' Redis, to read usage records from; in their forms. Empty = usage is not recorded",
    )
    redis_username: str = Field(default="", description="user of that Redis, where redis_url names none")
    redis_password: SecretStr = Field(
        default=SecretStr(""),
        validate_default=True,
        description="password of that Redis, where redis_url holds none; any characters, none escaped",
    )
    events_url: str = Field(
        default="",
        repr=False,  # it may hold a secret
        description="http:// or https://; each usage record is sent there as a CloudEvent. Empty = none is sent",
    )
    events_token: SecretStr = Field(
        default=SecretStr(""), description="sent with the events as Authorization: Bearer; empty = none"
    )
    events_batch: int = Field(
        default=100, ge=1, le=1000, description="events of one request; 1 = each alone, in CloudEvents' structured mode"
    )

    tenant_files: int = Field(default=1000, ge=1, description="files that a tenant may have, its batches' included")
    tenant_file_bytes: int = Field(default=10 * 1024**3, ge=1024, description="bytes of all files of a tenant")
    tenant_media_files: int = Field(
        default=10_000,
        ge=1,
        description="media that a tenant has at /v1/files for its requests, and that has not expired, beside"
        " tenant_files",
    )
    tenant_media_bytes: int = Field(default=10 * 1024**3, ge=1024, description="bytes of all of these")
    max_batch_lines: int = Field(default=50_000, ge=1, le=1_000_000, description="lines of one batch")
    batch_lease_s: float = Field(
        default=30.0,
        ge=1,
        le=600,
        description="how long lines of batches are left to a gateway that is silent; then others run them",
    )
    tenant_batches: int = Field(default=16, ge=1, description="batches of a tenant that are not over")

    @field_validator("events_url")
    @classmethod
    def is_an_http_url(cls, url: str) -> str:
        try:
            if url:
                TypeAdapter(AnyHttpUrl).validate_python(url)
        except ValidationError:
            raise ValueError("it must be an http:// or https:// URL") from None
        return url

    @model_validator(mode="after")
    def is_a_redis(self) -> ControlSettings:
        if not self.redis_url and (self.redis_username or self.redis_password.get_secret_value()):
            raise ValueError("ANTIPHON_REDIS_USERNAME and ANTIPHON_REDIS_PASSWORD want ANTIPHON_REDIS_URL")
        try:
            _ = self.redis
        except ValueError as error:
            raise ValueError(f"ANTIPHON_REDIS_URL: {error}") from None
        return self

    @property
    def redis(self) -> RedisUrl | None:
        """Where usage records come from; None = they are not recorded."""
        if not self.redis_url:
            return None
        return parse_redis_url(self.redis_url, self.redis_username, self.redis_password.get_secret_value())

    @property
    def batch_limits(self) -> BatchLimits:
        return BatchLimits(
            files=self.tenant_files,
            file_bytes=self.tenant_file_bytes,
            media_files=self.tenant_media_files,
            media_bytes=self.tenant_media_bytes,
            batch_lines=self.max_batch_lines,
            batches=self.tenant_batches,
            lease_s=self.batch_lease_s,
        )

    @field_validator("bootstrap_admin_key", "gateway_token")
    @classmethod
    def is_not_guessable(cls, secret: SecretStr) -> SecretStr:
        length = len(secret.get_secret_value())
        if 0 < length < MIN_SECRET_CHARS or (length and not secret.get_secret_value().isascii()):
            raise ValueError(
                f"it must have at least {MIN_SECRET_CHARS} ASCII characters; openssl rand -hex 32 makes one"
            )
        return secret

    @field_validator("gateway_token")
    @classmethod
    def is_there(cls, token: SecretStr) -> SecretStr:
        if not token.get_secret_value():
            raise ValueError("it is empty; openssl rand -hex 32 makes one")
        return token

    @model_validator(mode="after")
    def is_a_database(self) -> ControlSettings:
        try:
            _ = self.database
        except ValueError as error:
            raise ValueError(f"ANTIPHON_DATABASE_URL: {error}") from None
        return self

    @property
    def database(self) -> DatabaseUrl:
        """Where the database is, and how to log in there."""
        return parse_database_url(self.database_url, self.database_password.get_secret_value())
