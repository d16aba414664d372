"""How much of a GPU each engine may take: arithmetic over numbers that the driver, torch or a table gives.

A *fraction* means one thing in every setting and size, the same as vLLM's gpu_memory_utilization: the part of a GPU's
whole memory that one process takes for weights, working memory and KV cache. That much must be free when the process
starts. What other processes use is not subtracted from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GIB = 1 << 30
CONTEXT_BYTES = 640 << 20
"""Assumed: what the driver takes for each process beside its fraction (CUDA context, loaded kernels)."""
_STEPS = 10_000
"""Fractions are rounded to a ten-thousandth, 8 MiB of a large GPU."""


class DoesNotFitError(Exception):
    """The memory is too small; the message has the numbers and says what would help."""


@dataclass(frozen=True)
class GpuMemory:
    """One GPU's memory in bytes, as one process sees it.

    used_by_others: all that this process's torch did not reserve: other processes, and every CUDA context, its own
    included. reserved: by this process's torch, for weights so far.
    """

    total: int
    used_by_others: int = 0
    reserved: int = 0


def process_bytes(memory: GpuMemory, fraction: float, setting: str = "memory_fraction") -> int:
    """Return how much the process may take in all. Raise DoesNotFitError where that much is not free."""
    wanted, free = int(memory.total * fraction), memory.total - memory.used_by_others
    if wanted > free:
        most = fraction_within(free, memory.total)
        advice = f"Free the GPU or set {setting} to at most {most:g}" if most > 0 else "Free the GPU"
        raise DoesNotFitError(
            f"{setting} = {fraction:g} asks for {wanted / GIB:.1f} of the GPU's {memory.total / GIB:.1f} GiB, but "
            f"others use {memory.used_by_others / GIB:.1f} GiB and {max(free, 0) / GIB:.1f} GiB are free. {advice}."
        )
    return wanted


def cache_bytes(memory: GpuMemory, fraction: float, workspace: int) -> int:
    """Return what the fraction leaves beside the weights, which are reserved by now, and the workspace; below 0 where
    it leaves nothing. Raise DoesNotFitError as process_bytes does."""
    return process_bytes(memory, fraction) - memory.reserved - workspace


def fraction_within(part: int, total: int) -> float:
    """Return the largest fraction, in ten-thousandths, that takes at most `part`."""
    return max(math.floor(part * _STEPS / total), 0) / _STEPS


def fraction_holding(part: int, total: int) -> float:
    """Return the smallest fraction, in ten-thousandths, that takes at least `part`."""
    return math.ceil(part * _STEPS / total) / _STEPS


@dataclass(frozen=True)
class Shares:
    """Fractions of one GPU that a thinker and a talker share."""

    thinker: float
    talker: float


def share_gpu(memory: GpuMemory, thinker_least: int, talker_least: int, talker_wanted: int) -> Shares:
    """Divide one GPU between a thinker and a talker so that either may start first.

    The talker gets what it wants if the thinker's least leaves it; the thinker gets the rest. Raise DoesNotFitError
    where the two least needs do not fit together.
    """
    room = memory.total - memory.used_by_others - 2 * CONTEXT_BYTES
    within = fraction_within(room, memory.total)
    needed, least, wanted = (
        fraction_holding(part, memory.total) for part in (thinker_least, talker_least, talker_wanted)
    )
    if round(needed + least, 6) > within:
        raise DoesNotFitError(
            f"the thinker needs at least {thinker_least / GIB:.1f} GiB and the talker {talker_least / GIB:.1f} GiB, "
            f"together {(thinker_least + talker_least) / GIB:.1f} GiB; of the GPU's {memory.total / GIB:.1f} GiB, "
            f"{max(room, 0) / GIB:.1f} GiB are left for them"
        )
    talker = max(least, min(wanted, round(within - needed, 4)))
    return Shares(round(within - talker, 4), talker)
