"""Whether the Redis that a user names is there: its services would wait for it, and say nothing until it comes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from services.common.redis_url import parse_redis_url
from services.local.errors import WrongOptionError

TIMEOUT_S = 15.0
"""Of a probe that bounds its own calls: what a name's look-up may take besides."""


def check_redis(url: str, environ: Mapping[str, str]) -> None:
    """Asks from a process of its own, as the services will. Raises WrongOptionError where the URL is wrong or nothing
    answers there."""
    try:
        place = parse_redis_url(url).place
    except ValueError as error:
        raise WrongOptionError(f"REDIS_URL: {error}") from None
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "services.common.redis_probe"],
            env={**environ, "ANTIPHON_REDIS_URL": url},
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
