"""Asks the queues' store once whether it answers: `python -m services.common.redis_probe`.

It reads ANTIPHON_REDIS_URL, ANTIPHON_REDIS_USERNAME and ANTIPHON_REDIS_PASSWORD. Run it before a start that should not
wait for a store that is not there. Exit status: 0 = it answers; 1 = it does not, or not in time (standard error
says why); 2 = there is no URL, or a wrong one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from services.common.errors import Unavailable
from services.common.redis_client import TIMEOUT_S, RedisClient, connect, redis_call
from services.common.redis_url import parse_redis_url

_VARIABLES = ("URL", "USERNAME", "PASSWORD")


async def problem_of(redis: RedisClient) -> str:
    """Return why `redis` does not answer, or "" where it does. Close it."""
    try:
        async with redis_call():
            await redis.ping()
    except Unavailable as error:
        return str(error.__cause__) or f"no answer within {TIMEOUT_S:g} s"
    finally:
        await redis.aclose()
    return ""


async def main() -> int:
    try:
        url, username, password = (os.environ.get(f"ANTIPHON_REDIS_{name}", "") for name in _VARIABLES)
        redis = connect(parse_redis_url(url, username, password))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    problem = await problem_of(redis)
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    logging.disable()  # a refused command is said above, without its traceback
    sys.exit(asyncio.run(main()))
