"""Starts the control plane: `python -m services.control`, settings from ANTIPHON_*.

`… migrate` brings the schema to this version and ends. `… new-epoch` is for a database that was restored from a backup:
gateways then ask for everything anew, since they may know changes that the backup lacks.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from contextlib import AsyncExitStack

from services.common.errors import Unavailable
from services.common.server import ServiceHost, run_main
from services.common.settings import load_settings_or_exit
from services.common.telemetry.logs import configure_logging
from services.control.control import open_control
from services.control.settings import ControlSettings
from services.control.store.database import Database
from services.control.store.migrate import SchemaError, check_schema, migrate


async def serve(settings: ControlSettings) -> None:
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, "antiphon.v1.Control"))
        try:
            control = await stack.enter_async_context(open_control(settings))
        except (SchemaError, Unavailable) as error:
            raise SystemExit(_refusal(settings, error)) from None
        control.add_to(host.server)
        host.announce_port("http", control.http.port)
        host.on_drain(control.drain)
        await host.serve()


async def only_migrate(settings: ControlSettings) -> None:
    async with Database(settings.database) as database:
        try:
            await migrate(database)
        except (SchemaError, Unavailable) as error:
            raise SystemExit(_refusal(settings, error)) from None
    sys.stdout.write(f"{settings.database.place}: the schema is this version's\n")


async def new_epoch(settings: ControlSettings) -> None:
    async with Database(settings.database) as database:
        try:
            await check_schema(database)
            async with database.write() as write:
                write.renew_epoch()
        except (SchemaError, Unavailable) as error:
            raise SystemExit(_refusal(settings, error)) from None
    sys.stdout.write(f"{settings.database.place}: gateways begin with a snapshot\n")


def _refusal(settings: ControlSettings, error: SchemaError | Unavailable) -> str:
    """Say where the database is and what is wrong. The text of a driver's error may hold a password: give its kind."""
    cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
    return f"{settings.database.place}: {error}{cause}"


_COMMANDS = {"migrate": only_migrate, "new-epoch": new_epoch}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.control", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", *_COMMANDS], default="serve")
    command: str = parser.parse_args().command
    settings = load_settings_or_exit(ControlSettings)
    configure_logging(settings.log_level, settings.log_format)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it says much of each look at the schema
    if command == "serve":
        run_main(serve(settings))
    else:
        asyncio.run(_COMMANDS[command](settings))


if __name__ == "__main__":
    main()
