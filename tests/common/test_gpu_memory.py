"""The memory that an engine may take of a GPU, for real cards and their slices."""

from __future__ import annotations

import ast
import logging
import math
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.gpu_memory import (
    CONTEXT_BYTES,
    GIB,
    DoesNotFitError,
    GpuMemory,
    cache_bytes,
    fraction_holding,
    fraction_within,
    process_bytes,
    share_gpu,
)
from services.common.talker_memory import (
    MAX_SLOTS,
    RELEASED_COSTS,
    RELEASED_MAX_TOKENS,
    RELEASED_WEIGHTS,
    WORKSPACE_BYTES,
    plan_streams,
    streams_bytes,
)

MIB = 1 << 20
# Name, MiB by nvidia-smi, and the streams of a talker with nine tenths of it; 0 = not even one.
CARDS = [
    ("B200 180GB", 183_359, 512),
    ("H200 141GB", 143_771, 512),
    ("H100 80GB", 81_559, 512),
    ("A100 80GB", 81_920, 512),
    ("L40S 48GB", 46_068, 326),
    ("RTX 6000 Ada 48GB", 49_140, 356),
    ("A100 40GB", 40_960, 277),
    ("L4 24GB", 23_034, 127),
    ("H100 MIG 3g.40gb", 40_448, 272),
    ("H100 MIG 1g.20gb", 20_096, 99),
    ("A100 40GB MIG 3g.20gb", 20_096, 99),
    ("A100 80GB MIG 2g.20gb", 19_968, 98),
    ("H200 MIG 1g.18gb", 16_384, 64),
    ("A100 80GB MIG 1g.10gb", 9_728, 6),
    ("A100 40GB MIG 1g.5gb", 4_864, 0),
]
cards = pytest.mark.parametrize(("name", "mib", "streams"), CARDS)
TALKER_LEAST, TALKER_WANTED = (
    RELEASED_WEIGHTS + WORKSPACE_BYTES + streams_bytes(RELEASED_COSTS, streams, 72 * streams) for streams in (1, 8)
)
THINKER_LEAST = int(68.2 * GIB)
"""Weights, KV cache of 32,768 tokens and working memory of the released thinker, as `make up` counts them."""


@cards
def test_a_talker_holds_streams_on_a_card(name: str, mib: int, streams: int) -> None:
    memory = GpuMemory(mib * MIB, CONTEXT_BYTES, RELEASED_WEIGHTS)
    if not streams:
        with pytest.raises(DoesNotFitError, match=r"memory_fraction = 0\.9 asks for 4\.3 of the GPU's 4\.8 GiB"):
            process_bytes(memory, 0.9)
        return
    budget = cache_bytes(memory, 0.9, WORKSPACE_BYTES)
    assert budget == int(mib * MIB * 0.9) - RELEASED_WEIGHTS - WORKSPACE_BYTES
    plan = plan_streams(RELEASED_COSTS, budget, max_slots=MAX_SLOTS, max_tokens=RELEASED_MAX_TOKENS)
    assert plan.slots == streams, name
    assert plan.bytes <= budget


@cards
def test_others_use_is_not_subtracted_but_the_share_must_be_free(name: str, mib: int, streams: int) -> None:
    del name, streams
    total = mib * MIB
    assert process_bytes(GpuMemory(total, int(total * 0.4)), 0.6) == int(total * 0.6)
    with pytest.raises(
        DoesNotFitError, match=r"memory_fraction = 0\.61 asks for .* set memory_fraction to at most 0\."
    ):
        process_bytes(GpuMemory(total, int(total * 0.4)), 0.61)
    with pytest.raises(DoesNotFitError, match=r"0\.0 GiB are free\. Free the GPU\."):
        process_bytes(GpuMemory(total, total), 0.1)


def test_our_reserved_memory_is_counted_once() -> None:
    empty = GpuMemory(20 * GIB, GIB)
    loaded = GpuMemory(20 * GIB, GIB, reserved=7 * GIB)
    assert cache_bytes(empty, 0.9, 0) - cache_bytes(loaded, 0.9, 0) == 7 * GIB


@pytest.mark.parametrize("part", [1, GIB, 13 * GIB + 5, 79 * GIB])
def test_fractions_round_to_the_safe_side(part: int) -> None:
    total = 81_559 * MIB
    assert fraction_within(part, total) * total <= part <= fraction_holding(part, total) * total
    assert fraction_holding(part, total) - fraction_within(part, total) <= 0.00011


@pytest.mark.parametrize(
    ("mib", "used_mib"), [(81_559, 4), (81_920, 500), (143_771, 600), (183_359, 0), (143_771, 40_000)]
)
def test_a_thinker_and_a_talker_fit_one_gpu_whichever_starts_first(mib: int, used_mib: int) -> None:
    total, used = mib * MIB, used_mib * MIB
    shares = share_gpu(GpuMemory(total, used), THINKER_LEAST, TALKER_LEAST, TALKER_WANTED)
    assert shares.thinker * total >= THINKER_LEAST
    assert shares.talker * total >= TALKER_LEAST

    # The thinker first: vLLM's own check, then ours on the rest.
    assert vllm_takes(shares.thinker, total, total - used - CONTEXT_BYTES) >= THINKER_LEAST
    left_by_thinker = used + CONTEXT_BYTES + int(shares.thinker * total)
    assert process_bytes(GpuMemory(total, left_by_thinker + CONTEXT_BYTES), shares.talker) >= TALKER_LEAST

    # The talker first: our check, then vLLM's on the rest.
    assert process_bytes(GpuMemory(total, used + CONTEXT_BYTES), shares.talker) >= TALKER_LEAST
    left_by_talker = used + CONTEXT_BYTES + int(shares.talker * total)
    assert vllm_takes(shares.thinker, total, total - left_by_talker - CONTEXT_BYTES) >= THINKER_LEAST


@pytest.mark.parametrize("spare_gib", [0, 0.3, 5])
def test_an_exact_fit_is_shared(spare_gib: float) -> None:
    total = 80 * GIB
    thinker_least, talker_least = int(0.8 * total), 8 * GIB
    total += int(spare_gib * GIB)
    used = total - thinker_least - talker_least - 2 * CONTEXT_BYTES - 3 * total // 10_000 - int(spare_gib * GIB)
    shares = share_gpu(GpuMemory(total, used), thinker_least, talker_least, 9 * GIB)
    assert shares.thinker * total >= thinker_least
    assert talker_least <= shares.talker * total <= 9 * GIB + total // 10_000
    used += int(spare_gib * GIB) + 4 * total // 10_000
    with pytest.raises(DoesNotFitError):
        share_gpu(GpuMemory(total, used), thinker_least, talker_least, 9 * GIB)


@pytest.mark.parametrize(("mib", "used_mib"), [(49_140, 0), (46_068, 4), (40_960, 0), (81_559, 4_000)])
def test_a_gpu_too_small_for_both_is_refused_with_numbers(mib: int, used_mib: int) -> None:
    with pytest.raises(
        DoesNotFitError, match=r"thinker needs at least 68\.2 GiB and the talker 8\.0 GiB, .* 76\.2 GiB"
    ):
        share_gpu(GpuMemory(mib * MIB, used_mib * MIB), THINKER_LEAST, TALKER_LEAST, TALKER_WANTED)


def vllm_takes(utilization: float, total: int, free: int) -> int:
    """Return what vLLM's own code takes of a GPU. Raise ValueError if that is not free.

    The function is extracted from its module, which takes half a minute to import.
    """
    package = find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    source = ast.parse((Path(package.origin).parent / "v1/worker/utils.py").read_text())
    (function,) = (node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == "request_memory")
    names: dict[str, Any] = {
        "math": math,
        "logger": logging.getLogger(),
        "format_gib": lambda size: f"{size / GIB:.2f}",  # pyright: ignore[reportUnknownLambdaType]
        "MemorySnapshot": object,
        "CacheConfig": object,
    }
    exec(compile(ast.Module([function], []), "request_memory", "exec"), names)  # noqa: S102  # vLLM's, as installed
    snapshot = SimpleNamespace(total_memory=total, free_memory=free, device_="cuda:0")
    return names["request_memory"](snapshot, SimpleNamespace(gpu_memory_utilization=utilization))


def test_vllm_refuses_an_occupied_gpu_as_we_do() -> None:
    with pytest.raises(ValueError, match="less than desired GPU memory utilization"):
        vllm_takes(0.9, 80 * GIB, 71 * GIB)
    assert vllm_takes(0.9, 80 * GIB, 73 * GIB) == pytest.approx(72 * GIB)
