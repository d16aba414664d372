"""What the commands of the Admin API share: options, the run of an act, and what it prints."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from services.cli.admin_client import AdminClient, AdminError, Row
from services.cli.completion import complete_files
from services.cli.table import show_rows

DEFAULT_URL = "http://127.0.0.1:8902"
ABOUT = "The admin key comes from the variable ADMIN_KEY: every user of the machine can read a command line."
Run = Callable[[AdminClient, argparse.Namespace], None]


def add_common_options(parser: argparse.ArgumentParser, *, with_files: bool = False) -> None:
    parser.add_argument(
        "--url", default=os.environ.get("ADMIN_URL", DEFAULT_URL), help="default: ADMIN_URL, %(default)s"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON, one object a line")
    if with_files:
        forms.add_argument("--csv", action="store_true", help="print CSV, with the names of the columns first")
        complete_files(forms.add_argument("--parquet", metavar="FILE", type=Path, help="write a Parquet file"))


def run_act(options: argparse.Namespace, _: Sequence[str]) -> int:
    key = os.environ.get("ADMIN_KEY", "")
    if not key:
        sys.stderr.write("Set ADMIN_KEY to an admin key.\n")
        return 2
    try:
        with AdminClient(options.url, key) as client:
            options.act(client, options)
    except AdminError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def add_act(kind: Any, name: str, act: Run, about: str, *positional: str) -> argparse.ArgumentParser:
    parser = kind.add_parser(name, help=about)
    for argument in positional:
        parser.add_argument(argument.lower(), metavar=argument)
    parser.set_defaults(run=run_act, act=act)
    return parser


def show_secret(options: argparse.Namespace, made: Row) -> None:
    """Print the key alone, so that a script can take it; what a person wants to know goes to standard error."""
    if options.json:
        sys.stdout.write(json.dumps(made) + "\n")
        return
    sys.stdout.write(made["secret"] + "\n")
    sys.stderr.write(f"{made['id']}: this is the only time that the key is shown.\n")


def show(options: argparse.Namespace, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Print rows in the form that the options ask for."""
    if getattr(options, "csv", False):
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row[column] for column in columns] for row in rows)
        return
    show_rows(rows, columns, as_json=options.json)
