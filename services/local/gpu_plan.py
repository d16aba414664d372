"""Which GPU, or which part of one, each engine gets: both are planned together, before either starts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.gpu_memory import CONTEXT_BYTES, GIB, DoesNotFitError, GpuMemory, fraction_within, share_gpu
from services.common.kv_cache import kv_values_per_token
from services.common.talker_memory import (
    MAX_FRAMES,
    RELEASED_COSTS,
    WORKSPACE_BYTES,
    blocks_for,
    planned_tokens,
    streams_bytes,
)
from services.local.errors import WrongOptionError
from services.local.gpus import LocalGpu

THINKER_FRACTION = 0.95
"""The documents' gpu_memory_utilization: the most that a thinker takes of a GPU of its own."""
TALKER_FRACTION = 0.9
"""The most that a talker takes of a GPU of its own."""
THINKER_WORKING_PART = 0.1
"""Assumed: what a step and the encoders work in, as a part of the thinker's weights."""
TENSOR_PARALLEL_BYTES = 1 << 30
"""Assumed: what each GPU of a tensor parallel thinker takes more (NCCL's buffers, replicated layers)."""

Settings = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Needs:
    """What a checkpoint's engines need, in bytes. kv_per_token: keys, values and hidden states of one token of the
    thinker; max_tokens: its longest sequence."""

    thinker_weights: int
    talker_weights: int
    kv_per_token: int
    max_tokens: int

    def thinker_least(self, gpus: int, max_model_len: int) -> int:
        """Return what each of `gpus` must hold for one request of the longest length."""
        shared = (self.thinker_weights + self.kv_per_token * min(max_model_len, self.max_tokens)) // gpus
        working = int(self.thinker_weights * THINKER_WORKING_PART) // gpus
        return shared + working + (TENSOR_PARALLEL_BYTES if gpus > 1 else 0)

    def talker_bytes(self, streams: int, max_frames: int) -> int:
        """Return what a talker of so many streams takes. What a stream costs is the released checkpoint's."""
        blocks = blocks_for(planned_tokens(max_frames, 1 << 62))
        return self.talker_weights + WORKSPACE_BYTES + streams_bytes(RELEASED_COSTS, streams, streams * blocks)


@dataclass(frozen=True)
class GpuShare:
    """What one engine gets: GPUs by CUDA's number, and the fraction of each one's memory."""

    gpus: tuple[LocalGpu, ...]
    fraction: float

    def __str__(self) -> str:
        first, *others = self.gpus
        where = f"GPUs {first.index} to {others[-1].index}" if others else f"GPU {first.index}"
        each = " of each" if others else ""
        total = min(gpu.total for gpu in self.gpus)
        return f"{where} ({first.name}), {self.fraction:g} of the memory = {self.fraction * total / GIB:.1f} GiB{each}"


@dataclass(frozen=True)
class GpuPlan:
    thinker: GpuShare
    talker: GpuShare | None
    """None where the model does not speak, or speaks on the CPU."""

    @property
    def is_shared(self) -> bool:
        return self.talker is not None and self.talker.gpus[0] in self.thinker.gpus

    def lines(self) -> list[str]:
        """Return what is printed at the start."""
        lines = [f"thinker: {self.thinker}"]
        if self.talker is not None:
            lines.append(f"talker:  {self.talker}{', beside the thinker' if self.is_shared else ''}")
        return lines


def check_gpu_settings(gpus: Sequence[LocalGpu], settings: Settings) -> None:
    """Raise WrongOptionError where the settings name GPUs that are not there: told before a model is fetched."""
    _thinker_gpus(gpus, settings)
    _talker_gpu(gpus, 1, settings)


def plan_gpus(gpus: Sequence[LocalGpu], needs: Needs, settings: Settings, *, speaks: bool) -> GpuPlan:
    """Give the thinker the first GPUs, and the talker the next one, or a part of the last where none is left.

    What `settings` say of it is kept. Raise WrongOptionError, with the numbers, where the GPUs do not hold both.
    """
    own = _thinker_gpus(gpus, settings)
    least = needs.thinker_least(len(own), int(_number(settings, "thinker", "max_model_len", 32768)))
    given = _number(settings, "thinker", "gpu_memory_utilization", 0.0)
    talker_gpu = _talker_gpu(gpus, len(own), settings) if speaks else None
    try:
        if talker_gpu is None:
            return GpuPlan(_alone(own, least, given, THINKER_FRACTION, "thinker"), None)
        streams = int(_number(settings, "talker", "slots", 0) or _number(settings, "thinker", "slots", 8))
        frames = int(_number(settings, "talker", "max_frames", MAX_FRAMES))
        speech = needs.talker_bytes(1, frames), needs.talker_bytes(streams, frames)
        asked = _number(settings, "talker", "memory_fraction", 0.0)
        if talker_gpu in own:
            return _shared(own, talker_gpu, least, speech, given, asked)
        alone = _alone((talker_gpu,), speech[0], asked, TALKER_FRACTION, "talker")
        return GpuPlan(_alone(own, least, given, THINKER_FRACTION, "thinker"), alone)
    except DoesNotFitError as error:
        raise WrongOptionError(
            f"GPU=1: {error}. Use larger GPUs or one more, spread the thinker over more "
            "(SET=thinker.tensor_parallel_size=2), or give it a shorter length (SET=max_model_len=16384)."
        ) from None


def _alone(gpus: tuple[LocalGpu, ...], least: int, given: float, most: float, engine: str) -> GpuShare:
    """Return the share of an engine that has its GPUs for itself among ours: `given`, else up to `most`."""
    fraction = given or min(most, *(fraction_within(_room(gpu), gpu.total) for gpu in gpus), 1)
    for gpu in gpus:
        if (wanted := max(least, int(given * gpu.total))) > min(_room(gpu), int(fraction * gpu.total) + 1):
            why = f"is to take {given:g} =" if given else "needs at least"
            raise DoesNotFitError(
                f"the {engine} {why} {wanted / GIB:.1f} GiB of GPU {gpu.index}, which has {gpu.total / GIB:.1f} GiB, "
                f"{max(_room(gpu), 0) / GIB:.1f} of them free for it"
            )
    return GpuShare(gpus, fraction)


def _shared(
    gpus: tuple[LocalGpu, ...], shared: LocalGpu, least: int, speech: tuple[int, int], given: float, asked: float
) -> GpuPlan:
    """Return the shares of a thinker on `gpus` and a talker beside it on one of them. speech: what the talker needs at
    least, and what it takes if it can. vLLM takes one fraction for all of its GPUs, so the shared one decides."""
    talker_least, talker_wanted = (math.ceil(asked * shared.total),) * 2 if asked else speech
    thinker_least = math.ceil(given * shared.total) if given else least
    shares = share_gpu(GpuMemory(shared.total, shared.used), thinker_least, talker_least, talker_wanted)
    others = tuple(gpu for gpu in gpus if gpu is not shared)
    thinker = given or shares.thinker
    if others:
        thinker = _alone(others, least, given, shares.thinker, "thinker").fraction
    return GpuPlan(GpuShare(gpus, thinker), GpuShare((shared,), asked or shares.talker))


def _room(gpu: LocalGpu) -> int:
    return gpu.total - gpu.used - CONTEXT_BYTES


def _thinker_gpus(gpus: Sequence[LocalGpu], settings: Settings) -> tuple[LocalGpu, ...]:
    wanted = settings.get("thinker", {}).get("tensor_parallel_size", "1")
    if not wanted.isdigit() or not 1 <= int(wanted) <= len(gpus):
        raise WrongOptionError(
            f"--set thinker.tensor_parallel_size={wanted}: this machine has {len(gpus)} GPU"
            + ("s" if len(gpus) > 1 else "")
        )
    return tuple(gpus[: int(wanted)])


def _talker_gpu(gpus: Sequence[LocalGpu], thinkers: int, settings: Settings) -> LocalGpu | None:
    """Return the talker's GPU: the one that the user names, else the first that the thinker leaves, else its last."""
    device = settings.get("talker", {}).get("device", "")
    if device == "cpu":
        return None
    if not device:
        return gpus[min(thinkers, len(gpus) - 1)]
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdigit() or int(number or 0) >= len(gpus):
        raise WrongOptionError(
            f"--set talker.device={device}: give cpu, or cuda:0 to cuda:{len(gpus) - 1}, which this machine has"
        )
    return gpus[int(number or 0)]


def _number(settings: Settings, service: str, name: str, default: float) -> float:
    given = settings.get(service, {}).get(name, default)
    try:
        return float(given)
    except ValueError:
        raise WrongOptionError(f"--set {service}.{name}={given}: give a number") from None


def read_needs(folder: Path) -> Needs:
    """Read a checkpoint's needs from its config and the headers of its safetensors: no weight is read.

    Raise WrongOptionError where the folder has none.
    """
    sizes = {"thinker.": 0, "talker.": 0, "code2wav.": 0}
    element = 2
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in _header(path).items():
            begin, end = tensor["data_offsets"]
            if (prefix := name.partition(".")[0] + ".") in sizes:
                sizes[prefix] += end - begin
            if name == "thinker.model.embed_tokens.weight":
                element = 4 if tensor["dtype"] == "F32" else 2
                embedding = end - begin
                sizes["talker."] += embedding  # the talker has its own copy
    if not sizes["thinker."]:
        raise WrongOptionError(
            f"{folder}: no safetensors file holds a thinker's weights. Name the folder of a Qwen3-Omni checkpoint."
        )
    config = json.loads((folder / "config.json").read_text())
    text = config["thinker_config"]["text_config"]
    return Needs(
        thinker_weights=sizes["thinker."],
        talker_weights=sizes["talker."] + sizes["code2wav."],
        kv_per_token=element * (kv_values_per_token(text) + text["hidden_size"]),
        max_tokens=text["max_position_embeddings"],
    )


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """Return a safetensors file's tensors: {name: {dtype, shape, data_offsets}}."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return header
