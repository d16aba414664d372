"""`antiphon batch`: many requests from a file, run when there is room."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from services.cli.client.errors import ClientError, UsageError
from services.cli.client.screen import Screen
from services.cli.client.server import Server, add_server_arguments, open_server
from services.cli.completion import complete_files
from services.cli.table import show_rows

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})
_LOOK_S = 1.0
_ABOUT = (
    "Run the requests of a JSONL file, each line {custom_id, method: POST, url, body}. They take what other requests "
    "leave, and their results are a file."
)
Act = Callable[[Server, argparse.Namespace], int]


def add_batch_command(commands: Any) -> None:
    """Add `batch` to the subparsers of `antiphon`."""
    batch = commands.add_parser("batch", help="many requests from a file", description=_ABOUT)
    acts = batch.add_subparsers(required=True, metavar="ACT")
    submit = _act(acts, "submit", _submit, "upload a file and make a batch of it")
    complete_files(submit.add_argument("file", metavar="FILE", type=Path))
    submit.add_argument(
        "--endpoint", choices=ENDPOINTS, metavar="PATH", help="what the lines ask for (default: the first line's url)"
    )
    submit.add_argument("--window", metavar="TIME", default="24h", help="when it expires: 24h, 30m (default: 24h)")
    submit.add_argument("--metadata", metavar="NAME=VALUE", action="append", default=[], help="kept with the batch")
    submit.add_argument("--watch", action="store_true", help="watch it until it is over")
    watch = _act(acts, "watch", _watch, "show a batch's progress until it is over")
    watch.add_argument("id", metavar="BATCH")
    fetch = _act(acts, "fetch", _fetch, "write the results of a batch")
    fetch.add_argument("id", metavar="BATCH")
    complete_files(fetch.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: standard output"))
    complete_files(
        fetch.add_argument(
            "--errors", metavar="FILE", type=Path, help="for the lines that failed (default: they are counted)"
        )
    )
    cancel = _act(acts, "cancel", _cancel, "stop a batch; what is done stays")
    cancel.add_argument("id", metavar="BATCH")
    _act(acts, "list", _list, "list the batches, the latest first")


def _act(acts: Any, name: str, act: Act, about: str) -> argparse.ArgumentParser:
    parser = acts.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    add_server_arguments(parser)
    parser.set_defaults(run=_run, act=act)
    return parser


def _run(options: argparse.Namespace, _: Sequence[str]) -> int:
    with open_server(options) as server:
        return options.act(server, options)


def _submit(server: Server, options: argparse.Namespace) -> int:
    endpoint = options.endpoint or _first_url(options.file)
    screen = Screen()
    with screen.progress() as bars, bars.open(options.file, "rb", description=options.file.name) as file:
        part = options.file.name, file, "application/jsonl"
        uploaded = server.whole(server.post_form("/files", {"purpose": "batch"}, part), "id")
    body = {
        "input_file_id": uploaded["id"],
        "endpoint": endpoint,
        "completion_window": options.window,
        **({"metadata": dict(map(_pair, options.metadata))} if options.metadata else {}),
    }
    made = server.whole(server.post_json("/batches", body), "id")
    if options.watch:
        if not options.json:
            screen.remark(f"{made['id']}\n")
        return _watched(server, made["id"], options)
    sys.stdout.write((json.dumps(made, ensure_ascii=False) if options.json else made["id"]) + "\n")
    return 0


def _watch(server: Server, options: argparse.Namespace) -> int:
    return _watched(server, options.id, options)


def _watched(server: Server, id: str, options: argparse.Namespace) -> int:
    """Show progress on standard error, and the batch at its end. Return 0 where it is completed."""
    with _progress() as bars:
        bar = bars.add_task("validating", total=None)
        while (batch := _batch(server, id))["status"] not in _OVER:
            _show(bars, bar, batch)
            time.sleep(_LOOK_S)
        _show(bars, bar, batch)
    if options.json:
        sys.stdout.write(json.dumps(batch, ensure_ascii=False) + "\n")
    else:
        counts = batch["request_counts"]
        done = f"{counts['completed']} of {counts['total']} lines completed, {counts['failed']} failed"
        sys.stdout.write(f"{batch['status']}: {done}\n")
        for error in (batch.get("errors") or {}).get("data", ()):
            line = f"line {error['line']}: " if error.get("line") else ""
            sys.stderr.write(f"{line}{error['message']} (code {error['code']})\n")
    return 0 if batch["status"] == "completed" else 1


def _show(bars: Progress, bar: TaskID, batch: dict[str, Any]) -> None:
    counts = batch["request_counts"]
    bars.update(
        bar,
        description=batch["status"],
        total=counts["total"] or None,
        completed=counts["completed"] + counts["failed"],
    )


def _progress() -> Progress:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _fetch(server: Server, options: argparse.Namespace) -> int:
    batch = _batch(server, options.id)
    if batch["status"] not in _OVER:
        raise ClientError(
            f"{options.id} is {batch['status']}: it has no results yet. Wait with: antiphon batch watch {options.id}"
        )
    if not batch["output_file_id"] and not batch["error_file_id"]:
        raise ClientError(f"{options.id} is {batch['status']} and has no results.")
    if batch["output_file_id"]:
        _write(server, batch["output_file_id"], options.output)
    if batch["error_file_id"] and options.errors:
        _write(server, batch["error_file_id"], options.errors)
    failed = batch["request_counts"]["failed"]
    if failed and not options.errors:
        sys.stderr.write(f"{failed} lines failed: --errors FILE writes why.\n")
    if options.json and options.output:
        sys.stdout.write(json.dumps(batch, ensure_ascii=False) + "\n")
    return 0


def _write(server: Server, file_id: str, path: Path | None) -> None:
    with server.stream(server.get(f"/files/{file_id}/content")) as response:
        if path is None:
            for data in response.iter_bytes():
                sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        half = path.with_name(f"{path.name}.part")
        try:
            with half.open("wb") as file:
                for data in response.iter_bytes():
                    file.write(data)
            half.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
        finally:
            half.unlink(missing_ok=True)


def _cancel(server: Server, options: argparse.Namespace) -> int:
    batch = server.whole(server.post_json(f"/batches/{options.id}/cancel", {}), "status")
    sys.stdout.write((json.dumps(batch, ensure_ascii=False) if options.json else batch["status"]) + "\n")
    return 0


def _list(server: Server, options: argparse.Namespace) -> int:
    after, rows = "", []
    while True:
        query = f"?limit=100{'&after=' + after if after else ''}"
        page = server.whole(server.get(f"/batches{query}"), "data")
        rows += [{**batch, **batch["request_counts"]} for batch in page["data"]]
        if not page.get("has_more") or not page["data"]:
            break
        after = page["data"][-1]["id"]
    show_rows(rows, ("id", "status", "endpoint", "total", "completed", "failed"), as_json=options.json)
    return 0


def _batch(server: Server, id: str) -> dict[str, Any]:
    return server.whole(server.get(f"/batches/{id}"), "status")


def _first_url(path: Path) -> str:
    """Return what the first line of the file asks for. Raise UsageError where it does not say."""
    try:
        with path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        url = json.loads(first)["url"]
    except (ValueError, KeyError, TypeError):
        url = None
    if url not in ENDPOINTS:
        raise UsageError(f"The first line of {path} has no 'url' that batches take: {', '.join(ENDPOINTS)}.")
    return url


def _pair(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (equals and name):
        raise UsageError(f"--metadata {given}: write NAME=VALUE.")
    return name, value
