"""Limits of subjects: what an operator grants a key, a project or an organisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic_core import to_json

from services.common.limit_kinds import LimitKind
from services.gateway.turn.allowed import Allowed

MOST_UNITS = 2**53
"""Lua counts with doubles: up to here they are exact."""
_SUBJECTS = {"key_": "key", "proj_": "project", "org_": "organisation"}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of one subject. `most` is in the unit of its kind."""

    subject: str
    kind: LimitKind
    most: int
    passes_without_redis: bool = False
    as_json: bytes = field(init=False, repr=False, compare=False)
    """As lua/ reads it: written once, for it is sent with each turn."""

    def __post_init__(self) -> None:
        most = min(self.most, MOST_UNITS)
        row = {"subject": self.subject, "span": self.kind.span, "metric": self.kind.metric, "most": most}
        object.__setattr__(self, "as_json", to_json(row))

    @property
    def of(self) -> str:
        """What its subject is: "key", "project" or "organisation"."""
        return next((name for prefix, name in _SUBJECTS.items() if self.subject.startswith(prefix)), "subject")


@dataclass(frozen=True, slots=True)
class SubjectTerms:
    """What one subject is granted. No models or voices = all that are served."""

    limits: Sequence[Limit] = ()
    models: frozenset[str] = frozenset()
    # Lower-case names.
    voices: frozenset[str] = frozenset()
    # Made of the limits once, since each turn asks: those that count turns, what they count, and those of one request.
    of_turns: Sequence[Limit] = field(init=False, repr=False, compare=False)
    metrics: frozenset[str] = field(init=False, repr=False, compare=False)
    of_requests: Sequence[Limit] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counting = [limit for limit in self.limits if limit.kind.span != "request"]
        of_turns = [limit for limit in counting if limit.kind is not LimitKind.CONCURRENT_SESSIONS]
        object.__setattr__(self, "of_turns", of_turns)
        object.__setattr__(self, "metrics", frozenset(limit.kind.metric for limit in of_turns))
        object.__setattr__(self, "of_requests", [limit for limit in self.limits if limit.kind.span == "request"])


@dataclass(slots=True)
class Terms:
    """The terms of all subjects. They may change while they are used."""

    by_subject: dict[str, SubjectTerms] = field(default_factory=dict[str, SubjectTerms])

    def of(self, subjects: Iterable[str]) -> list[SubjectTerms]:
        """Return the terms of those subjects that have any."""
        return [self.by_subject[subject] for subject in subjects if subject in self.by_subject]


def allowed_by(terms: Iterable[SubjectTerms]) -> Allowed:
    """Return what all of these terms allow."""
    models: frozenset[str] | None = None
    voices: frozenset[str] | None = None
    for one in terms:
        if one.models:
            models = one.models if models is None else models & one.models
        if one.voices:
            voices = one.voices if voices is None else voices & one.voices
    return Allowed(models, voices)
