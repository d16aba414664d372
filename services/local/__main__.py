"""`python -m services.local`: `up` serves, `demo` shows, `checkpoint` gives the folder of a random checkpoint."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from services.local.cache import default_cache_dir, default_data_dir
from services.local.checkpoint import Kind, cached_checkpoint
from services.local.errors import LocalError
from services.local.greeting import departure, greeting
from services.local.options import add_stack_arguments, read_options
from services.local.plan import StackOptions
from services.local.stack import LocalStack


async def serve(options: StackOptions, state_file: Path | None) -> None:
    """Run the stack until cancelled."""
    began_s = time.monotonic()
    stack = LocalStack(options, os.environ, state_file, say)
    say(departure(stack.log_dir, options))
    async with stack:
        say(
            greeting(
                stack.url,
                stack.grpc_address,
                stack.metrics_url,
                stack.log_dir,
                options,
                time.monotonic() - began_s,
            )
        )
        await asyncio.Event().wait()


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until SIGINT or SIGTERM cancels it. Its clean-up ends what it started; more signals change nothing,
    because every wait of the clean-up is bounded."""
    running = asyncio.create_task(work, name="work")

    def on_signal() -> None:
        if not running.cancelling():
            say("stopping …")
            running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await running


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_stack_arguments(commands.add_parser("up", help="serve until Ctrl-C"), data_dir=default_data_dir(os.environ))
    demo = commands.add_parser("demo", help="ask by speech, picture and film, then stop")
    add_stack_arguments(demo, port=0)
    demo.add_argument("--answer", type=Path, default=Path("out/answer.wav"), help="default %(default)s")
    build = commands.add_parser("checkpoint", help="build a checkpoint of random weights, or find it in the cache")
    build.add_argument("kind", nargs="?", type=Kind, choices=list(Kind), default=Kind.INSTRUCT)
    arguments = parser.parse_args()

    logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stderr)
    if arguments.command == "checkpoint":
        say(str(cached_checkpoint(arguments.kind, default_cache_dir(os.environ))))
        return
    try:
        options = read_options(arguments, os.environ, say)
        if arguments.command == "up":
            asyncio.run(until_signal(serve(options, arguments.state_file)))
        else:
            from services.local.demo.show import show  # its client and decoder are of no use to `up`

            asyncio.run(until_signal(show(options, arguments.answer)))
    except LocalError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
