"""Settings of what the gateway keeps in Redis for a while: responses, spoken answers, idempotency keys."""

from __future__ import annotations

from pydantic import Field, model_validator

from services.common.settings import ServiceSettings

# Of a response that is kept.
_RESPONSE_HEAD_BYTES = 16 * 1024


class KeptSettings(ServiceSettings):
    kept_responses_s: float = Field(
        default=3600.0,
        ge=0,
        le=30 * 86_400,
        description="how long a response of /v1/responses is kept, so that it can be continued; 0 = not at all",
    )
    kept_response_bytes: int = Field(
        default=2 * 1024**2,
        ge=1024,
        description="largest response that is kept, with its whole conversation; a larger one can't be continued",
    )
    kept_responses_tenant_bytes: int = Field(
        default=16 * 1024**2,
        ge=64 * 1024,
        description="what kept responses of one tenant may take in Redis; then its oldest make room",
    )
    kept_responses_bytes: int = Field(
        default=64 * 1024**2,
        ge=64 * 1024,
        description="what all kept responses may take in Redis; then those of the tenant that has the most make room",
    )
    kept_answers_s: float = Field(
        default=3600.0,
        ge=0,
        le=30 * 86_400,
        description="how long a spoken answer's text is kept, so that it can be sent back by its id; 0 = not at all",
    )
    kept_answers_tenant_bytes: int = Field(
        default=8 * 1024**2,
        ge=64 * 1024,
        description="what kept answers of one tenant may take in Redis; then its oldest make room",
    )
    kept_answers_bytes: int = Field(
        default=32 * 1024**2,
        ge=64 * 1024,
        description="what all kept answers may take in Redis; then those of the tenant that has the most make room",
    )
    kept_answers_audio: bool = Field(
        default=False,
        description="whether a kept answer's audio goes into the object store, as a file that expires with it"
        " (docs/batches.md)",
    )
    idempotency_s: float = Field(
        default=86_400.0,
        ge=0,
        le=30 * 86_400,
        description="how long a response is kept for its Idempotency-Key; 0 = the header is ignored",
    )
    idempotency_tenant_bytes: int = Field(
        default=16 * 1024**2,
        ge=64 * 1024,
        description="what such responses of one tenant may take in Redis; then its oldest make room",
    )
    idempotency_bytes: int = Field(
        default=64 * 1024**2,
        ge=64 * 1024,
        description="what all such responses may take in Redis; then those of the tenant that has the most make room",
    )
    idempotency_response_bytes: int = Field(
        default=4 * 1024**2,
        ge=1024,
        description="largest body that is kept for its Idempotency-Key; after a larger one the key is used up",
    )

    @model_validator(mode="after")
    def a_response_fits(self) -> KeptSettings:
        if self.idempotency_response_bytes + _RESPONSE_HEAD_BYTES > min(
            self.idempotency_tenant_bytes, self.idempotency_bytes
        ):
            raise ValueError(
                "ANTIPHON_IDEMPOTENCY_RESPONSE_BYTES is larger than what one tenant, or all, may keep: leave 16 KiB for"
                " its headers"
            )
        return self
