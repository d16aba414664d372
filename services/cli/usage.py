"""`antiphon usage`: what was used, and what it cost."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from services.cli.acts import ABOUT, add_common_options, run_act, show
from services.cli.admin_client import AdminClient, AdminError, Row
from services.cli.parquet import DAY, MICROS, TEXT, WHOLE, parquet_file

GROUPS = ("day", "organisation", "project", "key", "model")
_IDS = {"day": ("day",), "organisation": ("organisation_id",), "project": ("tenant", "project_id"), "key": ("key_id",)}
_BRIEF = ("requests", "tokens", "audio_in_ms", "audio_out_ms", "cost")
_WHOLE = (
    "requests", "tokens", "prompt_text_tokens", "prompt_audio_tokens", "prompt_image_tokens", "prompt_video_tokens",
    "cached_tokens", "completion_text_tokens", "reasoning_tokens", "completion_audio_tokens", "audio_in_ms",
    "audio_out_ms", "media_bytes", "derailed_requests", "spoken_again", "cost_micros", "cost",
)  # fmt: skip
_KINDS = {"day": DAY, "cost": MICROS}


def add_usage_command(commands: Any) -> None:
    """Add `usage` to the subparsers of `antiphon`."""
    usage = commands.add_parser("usage", help="what was used, and what it cost", description=ABOUT)
    add_common_options(usage, with_files=True)
    usage.add_argument(
        "--by", default="day", metavar="GROUPS", help=f'some of {", ".join(GROUPS)}, with commas; "" = one sum (day)'
    )
    usage.add_argument(
        "--from", dest="first", metavar="DAY", help="such as 2027-01-01 (default: the first of this month)"
    )
    usage.add_argument("--to", dest="end", metavar="DAY", help="the day after the last one (default: no end)")
    usage.add_argument("--org", help="only this organisation")
    usage.add_argument("--project", help="only this project: organisation/project, or its id")
    usage.add_argument("--key", help="only this key's id")
    usage.add_argument("--model", help="only this model")
    usage.add_argument(
        "--own",
        action="store_true",
        help="the usage of a project, with its own key of the scope admin_read in ADMIN_KEY",
    )
    usage.set_defaults(run=run_act, act=_usage)


def _usage(client: AdminClient, options: argparse.Namespace) -> None:
    query: dict[str, Any] = {
        "group": options.by,
        "from": options.first,
        "to": options.end,
        "key": options.key,
        "model": options.model,
    }
    if options.own:
        if options.org or options.project:
            raise AdminError("--own shows the key's own project: leave --org and --project out.")
    else:
        query["organisation"] = client.organisation_id(options.org) if options.org else None
        query["project"] = client.project_id(options.project) if options.project else None
    columns = [column for group in GROUPS if group in options.by.split(",") for column in _IDS.get(group, (group,))]
    rows = client.rows("/v1/usage" if options.own else "/usage", query)
    if options.parquet:
        _write_parquet(options.parquet, rows, [*columns, *_WHOLE])
    else:
        show(options, rows, [*columns, *(_WHOLE if options.csv else _BRIEF)])


def _write_parquet(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write the table to a file: days as dates, the cost as a decimal, and an absent id as "". Raise AdminError."""
    kinds = {column: _KINDS.get(column, WHOLE if column in _WHOLE else TEXT) for column in columns}
    # The decimal is made of the millionths, without rounding.
    sources = ["cost_micros" if column == "cost" else column for column in columns]
    data = parquet_file(kinds, ([row[source] for source in sources] for row in rows))
    try:
        path.write_bytes(data)
    except OSError as error:
        raise AdminError(f"{path} cannot be written: {error.strerror}.") from None
