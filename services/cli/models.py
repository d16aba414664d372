"""`antiphon models`: what a server serves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from services.cli.client.server import add_server_arguments, open_server
from services.cli.table import show_rows

_COLUMNS = ("id", "kind", "max_model_len", "voices", "default_voice")


def add_models_command(commands: Any) -> None:
    """Add `models` to the subparsers of `antiphon`."""
    models = commands.add_parser("models", help="list the models of a server", description="List the served models.")
    models.add_argument("--json", action="store_true", help="print JSON, one object a line")
    add_server_arguments(models)
    models.set_defaults(run=_run)


def _run(options: argparse.Namespace, _: Sequence[str]) -> int:
    with open_server(options) as server:
        models = server.models()
    # Other servers than Antiphon's tell less.
    show_rows([{**dict.fromkeys(_COLUMNS), **model} for model in models], _COLUMNS, as_json=options.json)
    return 0
