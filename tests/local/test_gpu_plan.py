"""The GPU plan: which GPU, or which share of one, the thinker and the talker get."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.gpu_memory import CONTEXT_BYTES
from services.common.talker_memory import RELEASED_WEIGHTS
from services.local.errors import WrongOptionError
from services.local.gpu_plan import Needs, check_gpu_settings, plan_gpus, read_needs
from services.local.gpus import LocalGpu, read_listing

H100, H200, A100_40, L40S = (81_559 << 20, 143_771 << 20, 40_960 << 20, 46_068 << 20)
RELEASED = Needs(
    thinker_weights=63_400_000_000, talker_weights=RELEASED_WEIGHTS, kv_per_token=102_400, max_tokens=65_536
)
"""Qwen3-Omni-30B-A3B-Instruct's."""


def gpus(*totals: int, used: int = 4 << 20) -> list[LocalGpu]:
    return [LocalGpu(index, "some GPU", total, used) for index, total in enumerate(totals)]


@pytest.mark.parametrize("total", [H100, H200])
def test_one_gpu_is_shared_by_both(total: int) -> None:
    plan = plan_gpus(gpus(total), RELEASED, {}, speaks=True)
    assert plan.talker is not None
    assert plan.is_shared
    assert plan.thinker.fraction * total >= RELEASED.thinker_least(1, 32_768)
    assert plan.talker.fraction * total >= RELEASED.talker_bytes(8, 4095)
    taken = (plan.thinker.fraction + plan.talker.fraction) * total
    assert taken <= total - 2 * CONTEXT_BYTES - (4 << 20)
    assert [line.split(":")[0] for line in plan.lines()] == ["thinker", "talker"]
    assert "GiB, beside the thinker" in plan.lines()[1]


@pytest.mark.parametrize("total", [A100_40, L40S])
def test_one_gpu_too_small_for_both_is_refused_with_numbers(total: int) -> None:
    with pytest.raises(WrongOptionError, match=r"needs at least \d\d\.\d GiB and the talker 8\.0 GiB.* are left"):
        plan_gpus(gpus(total), RELEASED, {}, speaks=True)


def test_the_talker_gets_the_gpu_after_the_thinkers() -> None:
    plan = plan_gpus(gpus(*[L40S] * 4), RELEASED, {"thinker": {"tensor_parallel_size": "2"}}, speaks=True)
    assert plan.talker is not None
    assert (len(plan.thinker.gpus), plan.talker.gpus[0].index, plan.is_shared) == (2, 2, False)
    assert (plan.thinker.fraction, plan.talker.fraction) == (0.95, 0.9)


def test_a_thinker_on_all_gpus_shares_the_last_one() -> None:
    plan = plan_gpus(gpus(*[A100_40] * 4), RELEASED, {"thinker": {"tensor_parallel_size": "4"}}, speaks=True)
    assert plan.talker is not None
    assert (plan.talker.gpus[0].index, plan.is_shared) == (3, True)
    assert plan.thinker.fraction + plan.talker.fraction < 1


def test_the_users_settings_win() -> None:
    settings = {"thinker": {"gpu_memory_utilization": "0.6"}, "talker": {"memory_fraction": "0.25", "device": "cuda:0"}}
    plan = plan_gpus(gpus(H200, H200), RELEASED, settings, speaks=True)
    assert plan.talker is not None
    assert (plan.thinker.fraction, plan.talker.fraction, plan.is_shared) == (0.6, 0.25, True)
    settings["thinker"]["gpu_memory_utilization"] = "0.97"
    settings["talker"] = {"device": "cuda:0"}
    with pytest.raises(WrongOptionError, match=r"thinker needs at least 136\.2 GiB and the talker 8\.0 GiB"):
        plan_gpus(gpus(H200, H200), RELEASED, settings, speaks=True)
    settings["thinker"]["gpu_memory_utilization"] = "0.6"
    settings["talker"]["memory_fraction"] = "0.45"
    with pytest.raises(WrongOptionError, match=r"thinker needs at least 84\.2 GiB and the talker 63\.2 GiB"):
        plan_gpus(gpus(H200, H200), RELEASED, settings, speaks=True)


def test_a_talker_on_the_cpu_leaves_the_gpu_to_the_thinker() -> None:
    plan = plan_gpus(gpus(H100), RELEASED, {"talker": {"device": "cpu"}}, speaks=True)
    assert (plan.thinker.fraction, plan.talker) == (0.95, None)
    assert plan_gpus(gpus(H100), RELEASED, {}, speaks=False) == plan


def test_others_use_shrinks_the_share_or_is_refused_with_numbers() -> None:
    plan = plan_gpus(gpus(H200, used=30 << 30), RELEASED, {}, speaks=False)
    assert 0.75 < plan.thinker.fraction < 0.79
    with pytest.raises(WrongOptionError, match=r"needs at least \d+\.\d GiB of GPU 0, which has 140\.4 GiB, 60\.\d of"):
        plan_gpus(gpus(H200, used=79 << 30), RELEASED, {}, speaks=False)


@pytest.mark.parametrize(
    ("service", "name", "value", "told"),
    [
        ("thinker", "tensor_parallel_size", "4", "tensor_parallel_size=4: this machine has 2 GPUs"),
        ("thinker", "tensor_parallel_size", "many", "tensor_parallel_size=many"),
        ("talker", "device", "cuda:2", r"give cpu, or cuda:0 to cuda:1"),
        ("talker", "device", "tpu", r"talker\.device=tpu"),
    ],
)
def test_missing_gpus_are_named_before_a_download(service: str, name: str, value: str, told: str) -> None:
    with pytest.raises(WrongOptionError, match=told):
        check_gpu_settings(gpus(H100, H100), {service: {name: value}})


def test_an_invalid_fraction_is_named() -> None:
    with pytest.raises(WrongOptionError, match=r"talker\.memory_fraction=half: give a number"):
        plan_gpus(gpus(H200), RELEASED, {"talker": {"memory_fraction": "half"}}, speaks=True)


def test_a_checkpoints_needs_are_known_without_reading_weights(tiny_instruct: Path, tiny_thinking: Path) -> None:
    needs = read_needs(tiny_instruct)
    on_disk = sum(path.stat().st_size for path in tiny_instruct.glob("*.safetensors"))
    assert 0.9 * on_disk < needs.thinker_weights + needs.talker_weights
    assert needs.talker_weights > 0
    assert read_needs(tiny_thinking).talker_weights < needs.talker_weights
    assert plan_gpus(gpus(H100), needs, {}, speaks=True).is_shared


LISTING = """\
0, GPU-aa11, NVIDIA H100 80GB HBM3, 81559, 4, Disabled
1, GPU-bb22, NVIDIA L40S, 46068, 1200, [N/A]
2, GPU-cc33, NVIDIA H100 80GB HBM3, 81559, 600, Enabled
"""


def test_a_listing_gives_sizes_and_use_in_bytes() -> None:
    first, second = read_listing(LISTING, "0,1")
    assert first == LocalGpu(0, "NVIDIA H100 80GB HBM3", 81_559 << 20, 4 << 20)
    assert second == LocalGpu(1, "NVIDIA L40S", 46_068 << 20, 1200 << 20)


def test_visible_devices_choose_and_number_the_gpus() -> None:
    assert [(gpu.index, gpu.name) for gpu in read_listing(LISTING, "GPU-bb,0")] == [
        (0, "NVIDIA L40S"),
        (1, "NVIDIA H100 80GB HBM3"),
    ]
    assert len(read_listing(LISTING, "1,7,0")) == 1  # like CUDA, which stops at the first invalid name
    with pytest.raises(WrongOptionError, match="CUDA_VISIBLE_DEVICES=7 names none of this machine's 3 GPUs"):
        read_listing(LISTING, "7")


@pytest.mark.parametrize(
    ("listing", "visible", "told"),
    [
        ("No devices were found\n", None, "nvidia-smi finds no GPU"),
        (LISTING, None, r"GPU 2 \(NVIDIA H100 80GB HBM3\) is in MIG mode"),
        ("0, GPU-a, NVIDIA GB10, [N/A], [N/A], Disabled\n", None, "tells no memory size for GPU 0"),
    ],
)
def test_gpus_that_cannot_be_planned_are_refused(listing: str, visible: str | None, told: str) -> None:
    with pytest.raises(WrongOptionError, match=told):
        read_listing(listing, visible)
