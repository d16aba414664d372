"""Kill and stop worker processes of the local stack under load, and count what clients see of it.

    python -m bench.chaos --kills 200 [--workers 2] [--json bench/results/chaos.json]

Each question is asked alone first: that answer is the reference. Then clients ask without end, some seconds after each
answer, while a random worker process is killed (SIGKILL) or stopped (SIGSTOP) every few seconds: preprocess, its
decoders, the thinker's server and engine core, the talker. With two workers a stage one is lost only while the other is
ready, with one only while all stages are. Exits with status 1 where a stream broke, an answer was wrong, or anything is
left.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from bench.chaos.figures import figures, holds
from bench.chaos.run import Options, run
from bench.machine import machine
from bench.report import arguments_parser, report


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--kills", type=int, default=200, help="losses in all (default %(default)s)")
    add("--workers", type=int, default=2, help="workers of each stage (default %(default)s)")
    add("--clients", type=int, default=4, help="requests at a time (default %(default)s)")
    add(
        "--rest", type=float, default=2.0, help="mean seconds from an answer to the client's next (default %(default)s)"
    )
    add("--seconds-between", type=float, default=9.0, help="mean time between losses (default %(default)s)")
    add("--calm", type=float, default=20.0, help="seconds of load before the first loss (default %(default)s)")
    add("--stops", type=float, default=0.1, help="part of losses that are SIGSTOPs (default %(default)s)")
    add("--aimed", action="store_true", help="lose only workers that hold a request")
    add("--seed", type=int, default=0)
    add("--set", action="append", default=[], metavar="SERVICE.SETTING=VALUE", help="a service's setting; repeatable")
    add("--log-dir", type=Path, help="keep the services' logs here")
    given = parser.parse_args()
    logging.basicConfig(level="ERROR", format="%(message)s", stream=sys.stderr)
    options = Options(
        kills=given.kills,
        workers=given.workers,
        clients=given.clients,
        rest_s=given.rest,
        between_s=given.seconds_between,
        calm_s=given.calm,
        stops=given.stops,
        seed=given.seed,
        settings=given.set,
        log_dir=given.log_dir,
        aimed=given.aimed,
    )
    result = asyncio.run(run(options, lambda line: print(line, file=sys.stderr, flush=True)))
    command = (
        f"python -m bench.chaos --kills {given.kills} --workers {given.workers} --clients {given.clients} "
        f"--rest {given.rest:g} --seconds-between {given.seconds_between:g} --stops {given.stops:g} --seed {given.seed}"
        f"{' --aimed' if given.aimed else ''}"
    )
    report({"command": command, "machine": machine(), **figures(result)}, given.json)
    sys.exit(0 if holds(result) else 1)


if __name__ == "__main__":
    main()
