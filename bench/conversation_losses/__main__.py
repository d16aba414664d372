"""Kill workers in mid-speech and gateways in mid-answer, and look whether conversations go on.

    python -m bench.conversation_losses [--conversations 100] [--json bench/results/conversation_losses.json]

Two gateways, which are processes, and Redis; the stages are scripted and real gRPC servers. Each conversation loses a
worker (preprocess, thinker and talker in turns) during its first answer, and its gateway by SIGKILL during the second
one. Then it connects to the other gateway with the id of its session, and asks on. As many sessions as there are at a
time may be open, so that none may take a second place.

Holds, or the exit status is 1: the first answer is as if nothing had happened, to the sample. The session goes on with
its settings, its items and its usage. The answer that was cut is an incomplete item, the model reads as much of it, and
the next answer is whole.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time

from bench.conversation_losses.figures import figures, problems
from bench.conversation_losses.run import Options, run
from bench.machine import machine
from bench.report import arguments_parser, report


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--conversations", type=int, default=100, help="in all (default %(default)s)")
    add("--at-once", type=int, default=10, help="on one gateway (default %(default)s)")
    add("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level="ERROR", format="%(message)s", stream=sys.stderr)
    options = Options(given.conversations, given.at_once, given.seed)
    began_s = time.monotonic()
    result = asyncio.run(run(options, lambda line: print(line, file=sys.stderr, flush=True)))
    command = (
        f"python -m bench.conversation_losses --conversations {given.conversations} --at-once {given.at_once}"
        f" --seed {given.seed}"
    )
    told = {"command": command, "machine": machine(), "seconds": round(time.monotonic() - began_s)}
    report({**told, **figures(result)}, given.json)
    sys.exit(1 if problems(result) else 0)


if __name__ == "__main__":
    main()
