"""Restart every process of a local stack under load, and measure what clients see and how long each takes to leave.

    python -m bench.rolling [--clients 3] [--long-clients 1] [--rest 2] [--json bench/results/rolling.json]

The stack has two processes of each service; the gateways are behind a load balancer that follows their readiness. Each
question is asked alone first: that answer is the reference. Then clients ask without end, some for short answers and
some for answers that last longer than any worker's grace. One process after the other gets SIGTERM, once the one before
is replaced. The long answers end before the gateways leave: a gateway cannot hand an answer over, so it leaves once its
answers have ended. Exits with status 1 where a client saw an error or a wrong answer, or a process took more than 10 s
to leave.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from bench.machine import machine
from bench.report import arguments_parser, report
from bench.rolling.figures import figures, holds
from bench.rolling.run import run


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clients", type=int, default=3, help="requests for short answers at a time")
    parser.add_argument("--long-clients", type=int, default=1, help="requests for long answers at a time")
    parser.add_argument("--rest", type=float, default=2.0, help="mean seconds from a short answer to the next question")
    given = parser.parse_args()
    logging.basicConfig(level="ERROR", format="%(message)s", stream=sys.stderr)
    result = asyncio.run(
        run(given.clients, given.long_clients, given.rest, lambda line: print(line, file=sys.stderr, flush=True))
    )
    command = (
        f"python -m bench.rolling --clients {given.clients} --long-clients {given.long_clients} --rest {given.rest:g}"
    )
    report({"command": command, "machine": machine(), **figures(result)}, given.json)
    sys.exit(0 if holds(result) else 1)


if __name__ == "__main__":
    main()
