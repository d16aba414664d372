"""The charts' copy of the sizes. Templates look a plan up in it and compute nothing.

helm/tools/copies.py writes helm/lib/templates/_sizing_table.tpl; `make check` compares it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from services.common.gpu_memory import DoesNotFitError
from services.sizing.gpus import GPUS, Gpu
from services.sizing.plan import nodes_needed, plan_talker, plan_thinker, thinker_tokens
from services.sizing.table import MODELS, TALKER_WEIGHTS_GB, TENSOR_PARALLEL, THINKER_WEIGHTS_GB, VIDEO_S, Model

TARGET = Path("helm/lib/templates/_sizing_table.tpl")

_HEAD = """{{- /* Generated from services/sizing by `make generated`: do not edit.
The thinker's memory is the model's documents': a theoretical minimum for transformers in BF16 with FlashAttention 2,
not a measurement of this stack. Captioner: no row there; taken as Thinking at 15 s, an estimate. The talker's is its
engine's own memory plan. */ -}}
{{- define "antiphon-lib.sizing-table" -}}
"""
_TAIL = "{{- end }}\n"

Plan = dict[str, str | int | float]


def sizing_table() -> str:
    """Return the template: JSON inside a `define`, one line a plan. Helm reads JSON many times faster than YAML."""
    models = {model.name: {"repository": model.repository, "speaks": model.speaks} for model in MODELS.values()}
    thinker = {
        model.name: {
            str(video_s): {gpu.name: _thinker(model, video_s, gpu) for gpu in GPUS.values()}
            for video_s in model.video_s
        }
        for model in MODELS.values()
    }
    talker = {str(video_s): {gpu.name: _talker(video_s, gpu) for gpu in GPUS.values()} for video_s in VIDEO_S}
    table = {
        "models": models,
        "thinker_weights_gb": THINKER_WEIGHTS_GB,
        "talker_weights_gb": TALKER_WEIGHTS_GB,
        "resources": {gpu.name: gpu.resource for gpu in GPUS.values()},
        "thinker": thinker,
        "talker": talker,
    }
    return _HEAD + _lines(table) + "\n" + _TAIL


def _lines(value: Mapping[str, object], indent: str = "") -> str:
    """Return JSON with one line for each map that holds no other map."""
    if not any(isinstance(item, Mapping) for item in value.values()) and indent:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    rows = [
        f"{inner}{json.dumps(key)}: "
        + (_lines(cast("Mapping[str, object]", item), inner) if isinstance(item, Mapping) else json.dumps(item))
        for key, item in value.items()
    ]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def _thinker(model: Model, video_s: int, gpu: Gpu) -> Plan:
    try:
        plan = plan_thinker(model, video_s, gpu)
    except DoesNotFitError as refusal:
        return {"refused": str(refusal)}
    # "<GPUs that a node has>:<nodes it takes>", where one such node is too small.
    smaller = [size for size in TENSOR_PARALLEL if size < plan.tensor_parallel]
    return {
        "tensor_parallel": plan.tensor_parallel,
        "max_model_len": plan.max_model_len,
        "fraction": str(plan.fraction),
        "slots": plan.slots,
        "tokens": thinker_tokens(plan),
        "need_gib": str(plan.need_gib),
        **(
            {"nodes": " ".join(f"{size}:{nodes_needed(model, video_s, gpu, size)}" for size in smaller)}
            if smaller
            else {}
        ),
    }


def _talker(video_s: int, gpu: Gpu) -> Plan:
    try:
        plan = plan_talker(video_s, gpu)
    except DoesNotFitError as refusal:
        return {"refused": str(refusal)}
    return {
        "fraction": str(plan.fraction),
        "slots": plan.slots,
        "most_slots": plan.most_slots,
        "need_gib": str(plan.need_gib),
    }
