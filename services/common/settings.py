"""Settings: one frozen object a process. `__main__` reads it from ANTIPHON_* variables and passes it down."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from services.common.redis_url import RedisUrl, parse_redis_url

PREFIX = "ANTIPHON_"

_JSON_TYPES = ("dict_type", "list_type", "tuple_type")
"""pydantic's error types for a variable that should hold a JSON object or list."""

END_S = 10.0
"""How long a process may take to end after `drain_s`. The gateway takes longest: one second until the drain ends, one
for the errors of gRPC callers, five for those of HTTP clients."""


class SettingsError(Exception):
    """A variable is wrong, unknown or missing. The message has one line for each, with its name."""


class _Variables(EnvSettingsSource):
    """Leaves a variable that holds no JSON as it is, so that validation reports it together with the others."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class ProcessSettings(BaseSettings):
    """The settings of every process. A subclass adds a service's own. A field's variable is ANTIPHON_ + its name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    grpc_host: str = Field(default="127.0.0.1", description="address that the gRPC server binds")
    grpc_port: int = Field(default=0, ge=0, le=65535, description="0 = any free port")
    advertise_host: str = Field(default="", description="host that other services reach this one by; empty = grpc_host")
    metrics_host: str = Field(default="127.0.0.1", description="address that the Prometheus endpoint binds")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="0 = any free port")
    drain_s: float = Field(default=30.0, ge=0, description="longest time in which calls may finish after SIGTERM")
    otlp_endpoint: str = Field(
        default="", description="OTLP/gRPC collector, http://host:4317; empty = no spans are sent"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="lines below this level are not logged"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="json = one JSON object a line, with the ids of the request and of its trace"
    )
    ready_file: Path | None = Field(
        default=None, description="JSON with the bound ports is written here once the service can work"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Variables(settings_cls)


class ServiceSettings(ProcessSettings):
    """The settings of every service that uses the queues."""

    redis_url: str = Field(
        repr=False,  # it may hold a password
        description="redis://, unix://, redis+sentinel:// or redis+cluster:// of the queues' store; rediss… with TLS",
    )
    redis_username: str = Field(default="", description="user of the queues' store, where redis_url names none")
    redis_password: SecretStr = Field(
        default=SecretStr(""),
        validate_default=True,
        description="password of the queues' store, where redis_url holds none; any characters, none escaped",
    )

    @field_validator("redis_url")
    @classmethod
    def is_a_redis_url(cls, url: str) -> str:
        parse_redis_url(url)
        return url

    @field_validator("redis_password")
    @classmethod
    def is_the_only_password(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        if "redis_url" in info.data:  # else that is what is wrong
            parse_redis_url(info.data["redis_url"], info.data.get("redis_username", ""), password.get_secret_value())
        return password

    @property
    def redis(self) -> RedisUrl:
        """Where the queues' store is, and how to log in there."""
        return parse_redis_url(self.redis_url, self.redis_username, self.redis_password.get_secret_value())


class WorkerSettings(ServiceSettings):
    """The settings of services that load a checkpoint."""

    model: str = Field(description="folder of the checkpoint, or its name on the hub")
    served_name: str = Field(default="", description="name in requests; empty = the last part of `model`")
    model_kind: Literal["auto", "instruct", "thinking", "captioner"] = Field(
        default="auto", description="auto = by the checkpoint's config and the name of its folder"
    )
    max_model_len: int = Field(default=32768, ge=1, description="longest prompt plus answer, in thinker tokens")
    slots: int = Field(default=8, ge=1, description="requests that this worker takes at a time")
    grant_timeout_s: float = Field(default=5.0, gt=0, description="a grant that nobody uses by then falls back")
    hand_over_after_s: float = Field(
        default=5.0, ge=0, description="while draining, calls that last longer go on elsewhere where another worker is"
    )

    pod_name: str = Field(
        default="", description="this pod, where a ReplicaSet owns it; the scaler writes its deletion cost"
    )
    pod_namespace: str = Field(default="", description="namespace of pod_name")

    @property
    def name(self) -> str:
        return self.served_name or self.model.rstrip("/").rsplit("/", 1)[-1]


S = TypeVar("S", bound=ProcessSettings)


def load_settings(cls: type[S]) -> S:
    """Read the settings of `cls` from the environment.

    Raise SettingsError, which names every wrong, missing and unknown ANTIPHON_* variable.
    """
    known = {PREFIX + name.upper() for name in cls.model_fields}
    problems = [
        f"{name}: unknown setting" for name in sorted(os.environ) if name.startswith(PREFIX) and name not in known
    ]
    try:
        settings = cls()  # pyright: ignore[reportCallIssue]  # the environment gives the fields
    except ValidationError as error:
        for issue in error.errors(include_input=False, include_url=False):
            field = str(issue["loc"][0]) if issue["loc"] else ""
            as_json = ", as JSON" if issue["type"] in _JSON_TYPES else ""
            problems.append(f"{PREFIX}{field.upper()}: {issue['msg']}{as_json}")
        raise SettingsError("\n".join(problems)) from None
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def load_settings_or_exit(cls: type[S]) -> S:
    """Do as `load_settings`, for `__main__`: print what is wrong and exit with status 2."""
    try:
        return load_settings(cls)
    except SettingsError as error:
        sys.stderr.write(f"wrong settings:\n{error}\n")
        raise SystemExit(2) from None
