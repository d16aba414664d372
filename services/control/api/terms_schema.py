"""The bodies of terms and prices in the Admin API."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, Field, field_validator

from services.common.limit_kinds import LimitKind
from services.common.queues.tickets import PriorityClass
from services.common.usage_sums import MICROS, decimal_text
from services.control.api.schema import Body, Paging, Reply, not_too_late
from services.control.store.models import Price
from services.control.tenancy.prices import PriceKind
from services.control.tenancy.terms import Limit, Terms

MAX_AMOUNT = 2**53
MAX_NAMES = 100
MAX_PRICE = 1_000_000
"""Of a million units, in the prices' currency."""

ModelName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class LimitBody(Body):
    amount: int = Field(
        ge=0,
        le=MAX_AMOUNT,
        description="requests, tokens, milliseconds of audio, bytes, or millionths of the prices' currency",
    )
    passes_without_redis: bool = Field(
        default=False, description="while Redis is away: false = requests are refused, true = they pass"
    )


class TermsBody(Body):
    """All terms of a key or organisation: what is left out is not granted any more."""

    limits: dict[LimitKind, LimitBody] = Field(
        default_factory=dict[LimitKind, LimitBody], description="days and months are those of UTC"
    )
    models: list[ModelName] = Field(
        default_factory=list[str], max_length=MAX_NAMES, description="that it may use; empty = all"
    )
    voices: list[ModelName] = Field(
        default_factory=list[str], max_length=MAX_NAMES, description="that it may use; empty = all"
    )

    @property
    def terms(self) -> Terms:
        given = self.model_dump(exclude={"limits"})
        limits = {kind: Limit(limit.amount, limit.passes_without_redis) for kind, limit in self.limits.items()}
        return Terms(limits=limits, **given)


class ProjectTermsBody(TermsBody):
    """All terms of a project: what is left out is not granted any more."""

    weight: float = Field(
        default=1.0, gt=0, le=1e6, allow_inf_nan=False, description="2 = twice the share of a tenant with 1"
    )
    priority: int = Field(
        default=0, ge=PriorityClass.LOWEST, le=PriorityClass.HIGHEST, description="added to that of its requests"
    )
    max_slots: int = Field(
        default=0, ge=0, le=1_000_000, description="slots of a stage that it holds at most; 0 = any number"
    )
    max_share: float = Field(
        default=1.0, gt=0, le=1, allow_inf_nan=False, description="the same as a part of all slots of the stage"
    )


class LimitReply(Reply):
    amount: int
    passes_without_redis: bool


class TermsReply(Reply):
    object: Literal["terms"] = "terms"
    subject: str = Field(description="id of the key, project or organisation")
    limits: dict[LimitKind, LimitReply]
    models: list[str]
    voices: list[str]
    updated_at: datetime | None = Field(description="null = they were never set")


class ProjectTermsReply(TermsReply):
    weight: float
    priority: int
    max_slots: int
    max_share: float


T = TypeVar("T", bound=TermsReply)


def terms_reply(reply: type[T], subject: str, found: tuple[Terms, datetime | None]) -> T:
    terms, updated_at = found
    shown: dict[str, Any] = {name: getattr(terms, name) for name in reply.model_fields if hasattr(terms, name)}
    shown["limits"] = {kind: LimitReply.model_validate(limit) for kind, limit in terms.limits.items()}
    return reply.model_validate({**shown, "subject": subject, "updated_at": updated_at})


class NewPrice(Body):
    model: str = Field(
        default="",
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description='the model\'s name; "" = every model without a price of its own',
    )
    kind: PriceKind
    per_million: Decimal = Field(
        ge=0, le=MAX_PRICE, decimal_places=6, allow_inf_nan=False, description='of a million units: a text, "0.40"'
    )
    from_at: Annotated[
        AwareDatetime | None,
        AfterValidator(not_too_late),
        Field(description="when it begins: RFC 3339, with a zone; null = now"),
    ] = None

    @field_validator("per_million", mode="before")
    @classmethod
    def is_exact(cls, given: object) -> object:
        """Refuse a JSON number with a fraction: it has been rounded on its way."""
        if isinstance(given, float):
            raise ValueError('write it as a text, "0.40": a number with a fraction is not exact')  # noqa: TRY004  # pydantic reports it
        return given

    @property
    def micros_per_million(self) -> int:
        return int(self.per_million * MICROS)


class PriceReply(Reply):
    object: Literal["price"] = "price"
    id: str
    model: str
    kind: str
    per_million: str = Field(description="what a million units cost, exactly")
    micros_per_million: int
    from_at: datetime
    created_at: datetime


def price_reply(row: Price) -> PriceReply:
    return PriceReply(
        id=row.id,
        model=row.model,
        kind=row.kind,
        per_million=decimal_text(row.micros_per_million),
        micros_per_million=row.micros_per_million,
        from_at=row.from_at,
        created_at=row.created_at,
    )


class PricePaging(Paging):
    model: str | None = Field(default=None, max_length=255, description="only those of this model")
    kind: PriceKind | None = Field(default=None, description="only those of this kind")
