"""Kill everything under load, and compare the usage records in the database with what clients received.

    python -m bench.metering [--turns 500] [--database postgresql] [--json bench/results/metering.json]

Real processes: the control plane, its database, Redis (Valkey) and three gateways, before scripted stages that are real
gRPC servers. Clients ask for turns of all kinds: text and speech, streamed, whole, over gRPC and in realtime sessions,
cancelled by their client, failing, going on on another worker, cut at limits. Meanwhile the control plane, each gateway
(SIGKILL), PostgreSQL (a restart) and Redis (killed, and back empty) are lost, one after the other; not with
`--no-losses`.

Holds, or the exit status is 1: each turn has one record. It equals what its client received to the token and the frame.
Where its gateway was killed it is at most one draw less, and never more. The sums of days equal the records' sums, and
so do the costs. Answers that were cut have no more than their limit, and at most one draw less.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time

from bench.machine import machine
from bench.metering.compare import figures, problems
from bench.metering.run import Options, run
from bench.report import arguments_parser, report


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--turns", type=int, default=500, help="turns in all (default %(default)s)")
    add("--at-once", type=int, default=16, help="how many clients ask (default %(default)s)")
    add("--database", choices=("sqlite", "postgresql"), default="postgresql", help="(default %(default)s)")
    add("--seed", type=int, default=0)
    add("--no-losses", action="store_true", help="kill nothing")
    given = parser.parse_args()
    logging.basicConfig(level="ERROR", format="%(message)s", stream=sys.stderr)
    options = Options(given.turns, given.at_once, given.database, given.seed, with_losses=not given.no_losses)
    began_s = time.monotonic()
    result = asyncio.run(run(options, lambda line: print(line, file=sys.stderr, flush=True)))
    wrong = problems(result)
    flag = " --no-losses" if given.no_losses else ""
    command = f"python -m bench.metering --turns {given.turns} --database {given.database} --seed {given.seed}{flag}"
    told = {"command": command, "machine": machine(), "seconds": round(time.monotonic() - began_s)}
    report({**told, **figures(result), "problems": wrong}, given.json)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
