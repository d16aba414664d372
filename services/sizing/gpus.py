"""Profiles of common GPUs and MIG slices: their memory, how Kubernetes names them."""

from __future__ import annotations

from dataclasses import dataclass

_MIG_SHARE = 0.88
"""Assumed: a MIG slice holds this part of what its name says, in GiB; the driver keeps the rest."""


@dataclass(frozen=True)
class Gpu:
    """A kind of device that a pod asks for."""

    name: str
    memory_gib: float
    """Whole GPUs: as the driver reports it (nvidia-smi's MiB / 1024). MIG slices: _MIG_SHARE of the name."""
    resource: str = "nvidia.com/gpu"
    """The extended resource of NVIDIA's device plugin; MIG slices: its strategy `mixed`."""

    @property
    def mig(self) -> bool:
        return self.resource != "nvidia.com/gpu"


def _whole(name: str, mib: int) -> Gpu:
    return Gpu(name, round(mib / 1024, 2))


def _slice(gpu: str, profile: str) -> Gpu:
    """A MIG slice by its profile, "1g.10gb"."""
    gib = int(profile.rpartition(".")[2].removesuffix("gb")) * _MIG_SHARE
    return Gpu(f"{gpu}-mig-{profile}", round(gib, 2), f"nvidia.com/mig-{profile}")


GPUS = {
    gpu.name: gpu
    for gpu in (
        _whole("l4-24gb", 23034),
        _whole("l40s-48gb", 46068),
        _whole("a100-40gb", 40960),
        _whole("a100-80gb", 81920),
        _whole("h100-80gb", 81559),
        _whole("h200-141gb", 143771),
        _whole("b200-180gb", 183359),
        *(_slice("a100-40gb", profile) for profile in ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb")),
        *(_slice("a100-80gb", profile) for profile in ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb")),
        *(_slice("h100-80gb", profile) for profile in ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb")),
        *(_slice("h200-141gb", profile) for profile in ("1g.18gb", "1g.35gb", "2g.35gb")),
        *(_slice("b200-180gb", profile) for profile in ("1g.23gb", "1g.45gb", "2g.45gb")),
    )
}
"""By name, the whole GPUs first."""
