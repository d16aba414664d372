"""The rules: what a pod requests for a checkpoint, a length of video and a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.common.gpu_memory import GIB, DoesNotFitError
from services.common.talker_memory import (
    MAX_FRAMES,
    MAX_SLOTS,
    RELEASED_COSTS,
    RELEASED_MAX_TOKENS,
    RELEASED_WEIGHTS,
    WORKSPACE_BYTES,
    blocks_for,
    plan_streams,
    streams_bytes,
)
from services.sizing.gpus import GPUS, Gpu
from services.sizing.table import (
    FIRST_STAGE_GIB,
    MODELS,
    TENSOR_PARALLEL,
    Model,
    prompt_tokens,
    thinker_gib,
)

THINKER_FRACTION = 0.95
"""Documented: gpu_memory_utilization."""
TALKER_FRACTION = 0.9
"""Assumed: the talker's memory_fraction of its GPU or slice."""
RANK_GIB = 1.0
"""Assumed: the cost of each GPU after the first of a tensor parallel thinker (NCCL's buffers, replicated layers)."""
NODES = (1, 2, 4, 8)
"""Nodes of one thinker: they divide its 48 layers, and layer 24, whose input the talker needs, begins a stage."""
THINKER_SLOTS = 8
"""Documented: max_num_seqs."""
LEN_ONE_GPU, LEN_TENSOR_PARALLEL = 32768, 65536
"""Documented: max_model_len on one GPU, and with tensor parallel 4."""


KV_TOKEN_BYTES = 48 * 2 * 4 * 128 * 2
"""Of the thinker: layers, keys and values, KV heads, their size, BF16."""


@dataclass(frozen=True)
class ThinkerPlan:
    gpu: Gpu
    need_gib: float
    tensor_parallel: int
    """GPUs of one node, which share each layer."""
    max_model_len: int
    nodes: int = 1
    """Stages of a pipeline, which divide the layers."""
    fraction: float = THINKER_FRACTION
    slots: int = THINKER_SLOTS

    @property
    def gpus(self) -> int:
        return self.tensor_parallel * self.nodes

    @property
    def have_gib(self) -> float:
        return thinker_room(self.gpu, self.gpus, self.nodes)


@dataclass(frozen=True)
class TalkerPlan:
    gpu: Gpu
    need_gib: float
    """Weights, workspace and one stream with the longest video."""
    slots: int
    """Streams that the memory holds and that the GPU speaks for in real time."""
    most_slots: int
    """Streams that the memory holds, by the engine's own plan."""
    video_streams: int
    """Streams that the memory holds if each has the longest video in its prompt."""
    fraction: float = TALKER_FRACTION

    @property
    def have_gib(self) -> float:
        return talker_room(self.gpu)


def thinker_room(gpu: Gpu, gpus: int, nodes: int = 1) -> float:
    """Return the GiB that a thinker may use on all its GPUs, divided equally among the nodes.

    Stages divide the layers evenly and the first one holds everything else, so each further stage leaves that unused.
    """
    joined = (gpus - 1) * RANK_GIB + (nodes - 1) * FIRST_STAGE_GIB
    return round(gpu.memory_gib * gpus * THINKER_FRACTION - joined, 2)


def thinker_tokens(plan: ThinkerPlan) -> int:
    """Return the tokens that the KV cache holds: `max_model_len` within the documented need, more in what is left."""
    beyond = (plan.have_gib - plan.need_gib) * 2**30 / KV_TOKEN_BYTES
    return plan.max_model_len + math.floor(beyond / 1024) * 1024


def talker_room(gpu: Gpu) -> float:
    """Return the GiB that a talker may use."""
    return round(gpu.memory_gib * TALKER_FRACTION, 2)


def plan_thinker(
    model: Model, video_s: int, gpu: Gpu, gpus_per_node: int = TENSOR_PARALLEL[-1], most_nodes: int = 1
) -> ThinkerPlan:
    """Return the plan with the fewest GPUs: those of one node, or of several whole nodes if one has too few.

    MIG slices are never joined (NCCL cannot). Raise DoesNotFitError.
    """
    need = thinker_gib(model.name, video_s)
    tried = [(size, 1) for size in TENSOR_PARALLEL if size <= gpus_per_node and (size == 1 or not gpu.mig)]
    if not gpu.mig:
        tried += [(gpus_per_node, nodes) for nodes in NODES[1:] if nodes <= most_nodes]
    for size, nodes in tried:
        if thinker_room(gpu, size * nodes, nodes) >= need:
            length = LEN_TENSOR_PARALLEL if size * nodes >= 4 else LEN_ONE_GPU
            return ThinkerPlan(gpu, need, size, length, nodes)
    size, nodes = tried[-1]
    room = thinker_room(gpu, size * nodes, nodes)
    raise DoesNotFitError(
        f"the {model.name} thinker with {video_s} s of video needs {need} GiB; {size * nodes} × {gpu.name} "
        f"({gpu.memory_gib} GiB each{_of_nodes(nodes)}) leave it {room} GiB{_why(gpu)}. "
        f"The nearest that can: {_nearest_thinker(need, gpu)}"
    )


def nodes_needed(model: Model, video_s: int, gpu: Gpu, gpus_per_node: int) -> int:
    """Return how many nodes of so many GPUs one thinker takes; 0 = no number of them holds it."""
    try:
        return plan_thinker(model, video_s, gpu, gpus_per_node, NODES[-1]).nodes
    except DoesNotFitError:
        return 0


def plan_talker(video_s: int, gpu: Gpu) -> TalkerPlan:
    """Return the streams that one GPU or slice holds, by the plan that the engine itself makes at its start.

    Raise DoesNotFitError where it does not hold one with so much video.
    """
    need, room = talker_gib(video_s), talker_room(gpu)
    if room < need:
        raise DoesNotFitError(
            f"the talker with {video_s} s of video needs {need} GiB; 1 × {gpu.name} ({gpu.memory_gib} GiB) leaves it "
            f"{room} GiB. The nearest that can: {_nearest_talker(need)}"
        )
    budget = int(gpu.memory_gib * GIB * TALKER_FRACTION) - RELEASED_WEIGHTS - WORKSPACE_BYTES
    plan = plan_streams(RELEASED_COSTS, budget, max_slots=MAX_SLOTS, max_tokens=RELEASED_MAX_TOKENS)
    filmed = plan.slots
    while filmed > 1 and streams_bytes(RELEASED_COSTS, filmed, filmed * _video_blocks(video_s)) > budget:
        filmed -= 1
    return TalkerPlan(gpu, need, min(plan.slots, gpu.realtime_streams), plan.slots, filmed)


def talker_gib(video_s: int) -> float:
    """Return what a talker needs for one stream with so much video in its prompt, in GiB."""
    stream = streams_bytes(RELEASED_COSTS, 1, _video_blocks(video_s))
    return math.ceil((RELEASED_WEIGHTS + WORKSPACE_BYTES + stream) / GIB * 100) / 100


def _video_blocks(video_s: int) -> int:
    return blocks_for(prompt_tokens(video_s) + MAX_FRAMES)


def model_named(name: str, video_s: int) -> Model:
    """Return a model by its name. Raise DoesNotFitError for a name or a length without a cell in the table."""
    if name not in MODELS:
        raise DoesNotFitError(f"model: {name} is none of {', '.join(MODELS)}")
    model = MODELS[name]
    if video_s not in model.video_s:
        raise DoesNotFitError(f"video_s: {video_s} is none of {', '.join(map(str, model.video_s))} for {name}")
    return model


def _why(gpu: Gpu) -> str:
    return ", and MIG slices cannot be joined" if gpu.mig else ""


def _of_nodes(nodes: int) -> str:
    return f", on {nodes} nodes" if nodes > 1 else ""


def _nearest_thinker(need: float, gpu: Gpu) -> str:
    """Return the profile with the least memory that holds it; more GPUs of this kind come before another kind."""
    rooms = [
        (other.name != gpu.name, other.memory_gib * size, f"{size} × {other.name}")
        for other in GPUS.values()
        for size in TENSOR_PARALLEL
        if (size == 1 or not other.mig) and thinker_room(other, size) >= need
    ]
    return min(rooms)[2]


def _nearest_talker(need: float) -> str:
    return min((gpu.memory_gib, gpu.name) for gpu in GPUS.values() if talker_room(gpu) >= need)[1]
