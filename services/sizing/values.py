"""A plan as a values file of the umbrella chart."""

from __future__ import annotations

from services.sizing.load import Replicas
from services.sizing.plan import TalkerPlan, ThinkerPlan
from services.sizing.table import CAPTIONER_NOTE, NOTE, TALKER_NOTE, Model

MOST = 4
"""The most replicas of autoscaling, as a multiple of the estimate."""


def values_file(
    model: Model, video_s: int, thinker: ThinkerPlan, talker: TalkerPlan | None, replicas: Replicas, command: str
) -> str:
    """Return YAML that says where each number is from."""
    lines = [
        f"# Written by: {command}",
        f"# {NOTE}",
        *([f"# {CAPTIONER_NOTE}"] if model.name == "captioner" else []),
        *([f"# {TALKER_NOTE}"] if talker is not None else []),
        "# Replicas: at 0.8 of the slots; thinkers also by the published latencies (theoretical, hardware not named).",
        "global:",
        "  sizing:",
        f"    model: {model.name}",
        f"    video_s: {video_s}",
        f"    gpu: {thinker.gpu.name}  # {thinker.gpus} a thinker: {_room(thinker)}",
    ]
    if talker is not None:
        lines.append(f"    talkerGpu: {talker.gpu.name}  # {talker.slots} streams: {_room(talker)}")
    if thinker.nodes > 1:
        lines += [f"    gpusPerNode: {thinker.tensor_parallel}", f"    maxNodes: {thinker.nodes}"]
    elif thinker.tensor_parallel > 1:
        lines.append(f"    gpusPerNode: {max(thinker.tensor_parallel, 8)}")
    for name, count in (("gateway", replicas.gateway), ("preprocess", replicas.preprocess)):
        lines += _service(name, count)
    lines += _service("thinker", replicas.thinker)
    lines += _service("talker", replicas.talker) if talker is not None else ["talker:", "  enabled: false"]
    return "\n".join(lines) + "\n"


def _service(name: str, count: int) -> list[str]:
    return [
        f"{name}:",
        f"  replicas: {count}",
        "  autoscaling:",
        f"    minReplicas: {count}",
        f"    maxReplicas: {count * MOST}",
    ]


def _room(plan: ThinkerPlan | TalkerPlan) -> str:
    return f"{plan.need_gib:g} GiB needed, {plan.have_gib:g} there"
