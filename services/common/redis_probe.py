"""Asks the queues' store once whether it answers: `python -m services.common.redis_probe`, for ANTIPHON_REDIS_URL.

For who starts services and would not have them wait for a store that is not there. Status 0 = it answers, 1 = it does
not, or not in time (standard error says why), 2 = there is no URL, or a wrong one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from services.common.errors import Unavailable
from services.common.redis_client import TIMEOUT_S, RedisClient, connect, redis_call


async def problem_of(redis: RedisClient) -> str:
    """Empty where it answers; it is closed afterwards."""
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
        redis = connect(os.environ.get("ANTIPHON_REDIS_URL", ""))
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
