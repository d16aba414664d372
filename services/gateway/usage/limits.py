"""Limits of subjects: what an operator grants a key, a project or an organisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from pydantic_core import to_json

from services.common.limit_kinds import LimitKind
from services.gateway.turn.allowed import Allowed

MOST_UNITS = 2**53
"""Lua counts with doubles: up to here they are exact."""
_MOST_KNOWN = 10_000
_HEADERS = {
    LimitKind.REQUESTS_PER_MINUTE: "requests",
    LimitKind.PROMPT_TOKENS_PER_MINUTE: "tokens",
    LimitKind.ANSWER_TOKENS_PER_MINUTE: "tokens",
}
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
    header: str = field(init=False, repr=False, compare=False)
    """Of which headers what is left is told, x-ratelimit-remaining-requests, …; "" = of none."""

    def __post_init__(self) -> None:
        most = min(self.most, MOST_UNITS)
        row = {"subject": self.subject, "span": self.kind.span, "metric": self.kind.metric, "most": most}
        object.__setattr__(self, "as_json", to_json(row))
        object.__setattr__(self, "header", _HEADERS.get(self.kind, ""))

    @property
    def of(self) -> str:
        """What its subject is: "key", "project" or "organisation"."""
        return next((name for prefix, name in _SUBJECTS.items() if self.subject.startswith(prefix)), "subject")


class LimitSet(tuple[Limit, ...]):
    """Limits that hold together. `as_json`: as lua/ reads them, written once."""

    as_json: bytes

    def __new__(cls, limits: Iterable[Limit]) -> Self:
        made = super().__new__(cls, limits)
        made.as_json = b",".join([limit.as_json for limit in made])
        return made


@dataclass(slots=True)
class Window:
    """A limit on a minute, as it stands: units that are used, and ms after which none are."""

    limit: Limit
    used: int
    reset_ms: int

    @property
    def left(self) -> int:
        return self.limit.most - self.used


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


@dataclass(frozen=True, slots=True)
class TurnTerms:
    """What the terms of who asks say of each of their turns. `metrics`: those that limits count."""

    terms: Sequence[SubjectTerms]
    limits: LimitSet
    metrics: frozenset[str]
    limits_requests: bool
    """Whether there are limits on one request."""
    have_places: bool
    """Whether there are limits on what runs at a time."""
    allowed: Allowed

    def count(self, units: Mapping[str, int], picos: int) -> bool:
        """Return whether a limit counts these units, or what they cost."""
        metrics = self.metrics
        if picos and "micros" in metrics:
            return True
        # No generator: it takes more than all of its steps.
        return bool([metric for metric, count in units.items() if count and metric in metrics])


@dataclass(slots=True)
class Terms:
    """The terms of all subjects. They may change while they are used."""

    by_subject: dict[str, SubjectTerms] = field(default_factory=dict[str, SubjectTerms])
    # By the subjects of a key: found again for each of its turns, and made anew where their terms are others.
    _of_turns: dict[tuple[str, ...], tuple[tuple[SubjectTerms | None, ...], TurnTerms]] = field(
        default_factory=dict[tuple[str, ...], tuple[tuple[SubjectTerms | None, ...], TurnTerms]]
    )

    def of(self, subjects: Iterable[str]) -> list[SubjectTerms]:
        """Return the terms of those subjects that have any."""
        return [self.by_subject[subject] for subject in subjects if subject in self.by_subject]

    def of_turns(self, subjects: tuple[str, ...]) -> TurnTerms:
        """Return what these subjects' terms say of turns."""
        terms = tuple(map(self.by_subject.get, subjects))
        known = self._of_turns.get(subjects)
        if known is None or known[0] != terms:
            if len(self._of_turns) >= _MOST_KNOWN:
                self._of_turns.clear()
            known = self._of_turns[subjects] = terms, _terms_of_turns([one for one in terms if one is not None])
        return known[1]


def _terms_of_turns(terms: Sequence[SubjectTerms]) -> TurnTerms:
    if not terms:
        return _NO_TERMS
    limits = LimitSet(limit for one in terms for limit in one.of_turns)
    return TurnTerms(
        terms,
        limits,
        frozenset[str]().union(*[one.metrics for one in terms]),
        any(one.of_requests for one in terms),
        any(limit.kind.span == "open" for limit in limits),
        allowed_by(terms),
    )


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


_NO_TERMS = TurnTerms((), LimitSet(()), frozenset(), limits_requests=False, have_places=False, allowed=Allowed())
