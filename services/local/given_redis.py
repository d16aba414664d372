"""The user's own Redis, and the check that it answers. The services would wait for it silently."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.common.redis_url import parse_redis_url
from services.local.errors import WrongOptionError

TIMEOUT_S = 15.0
"""Longest run of the probe. It bounds its own calls, but not the look-up of a name."""


@dataclass(frozen=True)
class GivenRedis:
    """A Redis of the user's, and who logs in there where the URL does not say it."""

    url: str = field(repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def settings(self) -> dict[str, str]:
        """A service's settings for it."""
        given = {"redis_url": self.url, "redis_username": self.username, "redis_password": self.password}
        return {name: value for name, value in given.items() if value}


def check_redis(given: GivenRedis, environ: Mapping[str, str]) -> None:
    """Ask for an answer from a process of its own, as the services will.

    Raise WrongOptionError where the URL is wrong or no Redis answers there.
    """
    try:
        place = parse_redis_url(given.url, given.username, given.password).place
    except ValueError as error:
        raise WrongOptionError(f"REDIS_URL: {error}") from None
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "services.common.redis_probe"],
            env={**environ, **{f"ANTIPHON_{name.upper()}": value for name, value in given.settings.items()}},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise WrongOptionError(f"REDIS_URL: no Redis answers at {place} within {TIMEOUT_S:g} s") from None
    if asked.returncode == 1:
        raise WrongOptionError(f"REDIS_URL: no Redis answers at {place}: {asked.stderr.strip()}")
    if asked.returncode:
        raise WrongOptionError(f"REDIS_URL: {asked.stderr.strip()}")
