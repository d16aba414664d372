"""What a client is told of limits: refusals, and the headers of answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from services.common.errors import BadInput, LimitsAway, QuotaExceeded, RateLimited, TooLarge
from services.common.limit_kinds import LimitKind
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.limits import Limit, SubjectTerms, Window

_RETRY_S = 2.0
_LIMITS_ON_CHOICES = (LimitKind.CONCURRENT_REQUESTS, LimitKind.REQUESTS_PER_MINUTE)
_NEVER_S = 3600.0


def refusal(limit: Limit, wait_ms: int) -> RateLimited:
    """Return the error where a limit leaves no room. `wait_ms` -1: it never has as much."""
    name = f"The {limit.of}'s limit {limit.kind} ({limit.most:,} {limit.kind.unit})"
    if wait_ms < 0:
        error = QuotaExceeded if limit.kind.is_quota else RateLimited
        return error(f"{name} is less than this request needs. Send a smaller one.", retry_after_s=_NEVER_S)
    wait_s = max(wait_ms / 1000, 0.001)
    if limit.kind.is_quota:
        return QuotaExceeded(f"{name} is used up. It begins anew in {_told(wait_s)}.", retry_after_s=wait_s)
    if limit.kind.span == "open":  # they usually end long before nobody renews them
        what = "session" if limit.kind is LimitKind.CONCURRENT_SESSIONS else "request"
        return RateLimited(f"{name} is reached. Try again when a {what} has ended.", retry_after_s=1.0)
    return RateLimited(f"{name} is reached. Try again in {_told(wait_s)}.", retry_after_s=wait_s)


def limits_away() -> LimitsAway:
    return LimitsAway("Limits can't be checked at the moment. Try again shortly.", retry_after_s=_RETRY_S)


def check_choices(terms: Iterable[SubjectTerms], choices: int) -> None:
    """Raise BadInput where the choices of one request, each of which counts as a request, are more than a limit ever
    allows: to try again would be in vain."""
    for one in terms:
        for limit in one.limits:
            if limit.kind in _LIMITS_ON_CHOICES and choices > limit.most:
                raise BadInput(
                    f"Invalid 'n': each of the {choices} choices counts as a request, but the {limit.of}'s limit"
                    f" {limit.kind} allows {limit.most:,} {limit.kind.unit}. Ask for fewer choices.",
                    param="n",
                )


def check_media(request: TurnRequest, terms: Iterable[SubjectTerms], kind: LimitKind, amount: int) -> None:
    """Raise TooLarge where one request's media is more than a limit on it allows."""
    for one in terms:
        for limit in one.of_requests:
            if limit.kind is kind and amount > limit.most:
                raise TooLarge(
                    f"The request has {amount:,} {kind.unit}, but the {limit.of}'s limit {kind} allows {limit.most:,}.",
                    param=request.intent.names.messages,
                    code="media_limit_exceeded",
                )


def headers_of(windows: Iterable[Window]) -> Mapping[str, str]:
    """Return x-ratelimit-* of the limits that leave least, where there are any. All have a header."""
    least: dict[str, Window] = {}
    for window in windows:
        of = window.limit.header
        if of not in least or window.left < least[of].left:
            least[of] = window
    found: dict[str, str] = {}
    for of, window in least.items():
        found[f"x-ratelimit-limit-{of}"] = str(window.limit.most)
        found[f"x-ratelimit-remaining-{of}"] = str(max(window.left, 0))
        found[f"x-ratelimit-reset-{of}"] = f"{math.ceil(window.reset_ms / 1000)}s"
    return found


def _told(wait_s: float) -> str:
    """Return a time as people say it: "1 s", "12 min", "3 h 20 min", "4 days"."""
    if wait_s < 120:
        return f"{math.ceil(wait_s)} s"
    minutes = math.ceil(wait_s / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{math.ceil(hours / 24)} days"
