"""The tables of docs/sizing.md, made from the rules. helm/tools/copies.py writes them; `make check` compares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from services.common.gpu_memory import DoesNotFitError
from services.common.marked import with_part
from services.sizing.gpus import GPUS, Gpu
from services.sizing.plan import plan_talker, plan_thinker, talker_gib
from services.sizing.table import MODELS, VIDEO_S, documented_gib, thinker_gib

PAGE = Path("docs/sizing.md")


def page_with_tables(page: str) -> str:
    """Return the page with its three tables made anew, each between its two comments."""
    for name, rows in (("memory", _memory()), ("thinkers", _thinkers()), ("talkers", _talkers())):
        page = with_part(page, name, "".join(f"| {' | '.join(cells)} |\n" for cells in rows))
    return page


def _memory() -> list[list[str]]:
    lengths = [f"{video_s} s" for video_s in VIDEO_S]
    rows = [
        ("Instruct", "documented", [documented_gib("instruct", video_s) for video_s in VIDEO_S]),
        ("Thinking", "documented", [documented_gib("thinking", video_s) for video_s in VIDEO_S]),
        (
            "the thinker alone (of Instruct too)",
            "derived: the row of Thinking",
            [thinker_gib("instruct", video_s) for video_s in VIDEO_S],
        ),
        (
            "the talker, with one such stream",
            "counted by the engine's plan",
            [talker_gib(video_s) for video_s in VIDEO_S],
        ),
    ]
    head = [["GiB, for a video of", *lengths, ""], ["---"] * (len(lengths) + 2)]
    return head + [[name, *(f"{gib:.2f}" for gib in sizes), source] for name, source, sizes in rows]


def _thinkers() -> list[list[str]]:
    def gpus(gpu: Gpu) -> list[str]:
        return _cells(lambda video_s: plan_thinker(MODELS["thinking"], video_s, gpu).tensor_parallel)

    head = [["", *(f"{video_s} s" for video_s in VIDEO_S)], ["---"] * (len(VIDEO_S) + 1)]
    return head + [[_named(gpu), *gpus(gpu)] for gpu in GPUS.values() if not gpu.mig]


def _talkers() -> list[list[str]]:
    def row(gpu: Gpu) -> list[str]:
        try:
            plan = plan_talker(VIDEO_S[0], gpu)
        except DoesNotFitError:
            return [_named(gpu), *["–"] * (3 + len(VIDEO_S))]
        filmed = _cells(lambda video_s: plan_talker(video_s, gpu).video_streams)
        return [_named(gpu), str(plan.most_slots), str(gpu.realtime_streams), str(plan.slots), *filmed]

    columns = ["memory, streams", "in real time", "slots", *(f"{video_s} s" for video_s in VIDEO_S)]
    return [["", *columns], ["---"] * (len(columns) + 1), *map(row, GPUS.values())]


def _cells(count: Callable[[int], int]) -> list[str]:
    cells: list[str] = []
    for video_s in VIDEO_S:
        try:
            cells.append(str(count(video_s)))
        except DoesNotFitError:
            cells.append("–")
    return cells


def _named(gpu: Gpu) -> str:
    return f"{gpu.name} ({gpu.memory_gib:g} GiB)"
