"""Profiles of common GPUs and MIG slices: memory, streams in real time, and name in Kubernetes."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED_ON = "h100-80gb"
MEASURED_STREAMS = 512
"""Measured on an NVIDIA H100 80GB HBM3 (bench/results/talker_gpu.json): so many streams of the released sizes, in BF16,
run at three quarters of real time."""
_MEASURED_GB_PER_S = 3350
_MIG_SHARE = 0.88
"""Assumed: a MIG slice has this part of the GiB in its name; the driver keeps the rest."""
_MIG_PARTS = 7
"""A GPU's compute is divided into so many slices."""


@dataclass(frozen=True)
class Gpu:
    """A kind of device that a pod requests."""

    name: str
    memory_gib: float
    """Whole GPUs: as the driver reports it (nvidia-smi's MiB / 1024). MIG slices: _MIG_SHARE of the name."""
    realtime_streams: int = MEASURED_STREAMS
    """A talker's streams in real time: measured on MEASURED_ON, assumed to follow the memory bandwidth on other GPUs
    and the share of compute on MIG slices."""
    resource: str = "nvidia.com/gpu"
    """The extended resource of NVIDIA's device plugin; MIG slices: its strategy `mixed`."""

    @property
    def mig(self) -> bool:
        return self.resource != "nvidia.com/gpu"


def _whole(name: str, mib: int, gb_per_s: int) -> Gpu:
    """A GPU by the memory that nvidia-smi tells and the bandwidth that its maker documents."""
    streams = min(MEASURED_STREAMS * gb_per_s // _MEASURED_GB_PER_S, MEASURED_STREAMS)
    return Gpu(name, round(mib / 1024, 2), streams)


def _slices(gpu: Gpu, *profiles: str) -> list[Gpu]:
    """MIG slices of a GPU by their profiles, "1g.10gb"."""
    found: list[Gpu] = []
    for profile in profiles:
        compute, _, memory = profile.partition(".")
        gib = round(int(memory.removesuffix("gb")) * _MIG_SHARE, 2)
        streams = gpu.realtime_streams * int(compute.removesuffix("g")) // _MIG_PARTS
        found.append(Gpu(f"{gpu.name}-mig-{profile}", gib, streams, f"nvidia.com/mig-{profile}"))
    return found


_WHOLE = {
    gpu.name: gpu
    for gpu in (
        _whole("l4-24gb", 23034, 300),
        _whole("l40s-48gb", 46068, 864),
        _whole("a100-40gb", 40960, 1555),
        _whole("a100-80gb", 81920, 2039),
        _whole("h100-80gb", 81559, 3350),
        _whole("h200-141gb", 143771, 4800),
        _whole("b200-180gb", 183359, 8000),
    )
}
GPUS = _WHOLE | {
    gpu.name: gpu
    for gpu in (
        *_slices(_WHOLE["a100-40gb"], "1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb"),
        *_slices(_WHOLE["a100-80gb"], "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb"),
        *_slices(_WHOLE["h100-80gb"], "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb"),
        *_slices(_WHOLE["h200-141gb"], "1g.18gb", "1g.35gb", "2g.35gb"),
        *_slices(_WHOLE["b200-180gb"], "1g.23gb", "1g.45gb", "2g.45gb"),
    )
}
"""By name, the whole GPUs first."""
