"""`antiphon size`: the GPUs of a checkpoint and the replicas for a load, with an explanation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.common.gpu_memory import DoesNotFitError
from services.common.talker_memory import MAX_FRAMES, USUAL_PROMPT_TOKENS
from services.sizing.gpus import GPUS, MEASURED_ON, Gpu
from services.sizing.load import Load, Replicas, replicas_for
from services.sizing.plan import (
    NODES,
    TalkerPlan,
    ThinkerPlan,
    model_named,
    plan_talker,
    plan_thinker,
    talker_gib,
    talker_room,
)
from services.sizing.table import (
    CAPTIONER_NOTE,
    FIRST_STAGE_GIB,
    MODELS,
    NOTE,
    TALKER_NOTE,
    TENSOR_PARALLEL,
    VIDEO_S,
    VIDEO_TOKENS_PER_S,
    Model,
    documented_gib,
)
from services.sizing.values import values_file


def main(arguments: list[str] | None = None) -> int:
    """Run `antiphon` with this command alone and return its status: 0, or 1 where it does not fit."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="antiphon")
    add_size_command(parser.add_subparsers(required=True, metavar="COMMAND"))
    return run(parser.parse_args(given), given)


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Run the command with its `options`, parsed from `given`. Return 0, or 1 where it does not fit."""
    try:
        return _size(options, "antiphon " + " ".join(given))
    except DoesNotFitError as refusal:
        sys.stderr.write(f"{refusal}\n{NOTE}\n")
        return 1


def add_size_command(commands: Any) -> None:
    """Add `size` to the subparsers of `antiphon`."""
    size = commands.add_parser("size", help="GPUs and replicas for a checkpoint and a load", description=NOTE)
    add = size.add_argument
    add("--model", choices=sorted(MODELS), default="instruct")
    add("--video-s", type=int, choices=VIDEO_S, default=VIDEO_S[0], help="longest video of a request")
    add("--gpu", choices=list(GPUS), required=True, metavar="PROFILE", help=f"one of {', '.join(GPUS)}")
    add("--talker-gpu", choices=list(GPUS), metavar="PROFILE", help="default: the thinker's profile")
    add("--gpus-per-node", type=int, choices=TENSOR_PARALLEL, default=TENSOR_PARALLEL[-1])
    add("--max-nodes", type=int, choices=NODES, default=1, help="nodes that one thinker may span")
    add("--streams", type=_amount, default=1.0, help="answers at a time, at the peak")
    add("--audio-minutes", type=_amount, default=0.0, help="minutes of speech an hour, at the peak")
    add("--tokens-per-s", type=_amount, default=0.0, help="text tokens a second, at the peak")
    add("--values", type=Path, metavar="FILE", help="write a values file of the umbrella chart")
    size.set_defaults(run=run)


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1e9")
    return value


def _size(options: argparse.Namespace, command: str) -> int:
    video_s: int = options.video_s
    model = model_named(options.model, video_s)
    thinker = plan_thinker(model, video_s, GPUS[options.gpu], options.gpus_per_node, options.max_nodes)
    talker = plan_talker(video_s, _talker_gpu(options)) if model.speaks else None
    load = Load(options.streams, options.audio_minutes, options.tokens_per_s)
    replicas = replicas_for(load, thinker.slots, talker.slots if talker else 0)
    sys.stdout.write("\n".join(_explain(model, video_s, thinker, talker, load, replicas)) + "\n")
    if options.values is not None:
        options.values.parent.mkdir(parents=True, exist_ok=True)
        options.values.write_text(values_file(model, video_s, thinker, talker, replicas, command))
        sys.stdout.write(f"\nwritten: {options.values}\n")
    return 0


def _talker_gpu(options: argparse.Namespace) -> Gpu:
    """Return the profile that is named, else a whole GPU of the thinker's kind. MIG must be asked for."""
    return GPUS[options.talker_gpu or options.gpu]


def _smallest_slice(gpu: Gpu, video_s: int) -> TalkerPlan | None:
    """Return the plan of the smallest MIG slice of a GPU that holds a talker, if one does."""
    fitting = [
        other
        for other in GPUS.values()
        if other.name.startswith(f"{gpu.name}-mig") and talker_room(other) >= talker_gib(video_s)
    ]
    return plan_talker(video_s, min(fitting, key=lambda other: other.memory_gib)) if fitting else None


def _explain_film(video_s: int, max_model_len: int) -> list[str]:
    """Say where the memory holds a longer film than the model's length."""
    tokens = VIDEO_TOKENS_PER_S * video_s
    if tokens < max_model_len:
        return []
    return [
        f"derived     a film of {video_s} s takes up to {tokens} tokens, more than the model length: clients must ask",
        f"            for a lower fps or max_pixels beyond {max_model_len // VIDEO_TOKENS_PER_S} s of a large picture",
    ]


def _explain(
    model: Model, video_s: int, thinker: ThinkerPlan, talker: TalkerPlan | None, load: Load, replicas: Replicas
) -> list[str]:
    several = thinker.gpus > 1
    spread = [
        f"            {thinker.tensor_parallel} on each of {thinker.nodes} nodes, as stages of a pipeline: less "
        f"{FIRST_STAGE_GIB:g} GiB (derived) for each after the first"
    ]
    lines = [
        f"{model.repository}, up to {video_s} s of video",
        "",
        *(
            [f"documented  the whole checkpoint      {documented_gib(model.name, video_s):g} GiB"]
            if model.name != "captioner"
            else [f"estimate    {CAPTIONER_NOTE}"]
        ),
        f"derived     the thinker alone         {thinker.need_gib:g} GiB (the row of Thinking)",
        f"            {thinker.gpus} × {thinker.gpu.name:<20} {thinker.have_gib:g} GiB: {thinker.fraction} "
        f"of {thinker.gpu.memory_gib:g} GiB each"
        + (", less 1 GiB (assumed) for each GPU after the first" if several else ""),
        *(spread if thinker.nodes > 1 else []),
        f"documented  memory fraction {thinker.fraction}, model length {thinker.max_model_len}, "
        f"{thinker.slots} streams",
        *_explain_film(video_s, thinker.max_model_len),
    ]
    if talker is not None:
        lines += _explain_talker(talker, video_s)
    wants = [f"{load.streams:g} streams at a time"]
    wants += [f"{load.audio_minutes:g} minutes of speech an hour"] if load.audio_minutes else []
    wants += [f"{load.tokens_per_s:g} tokens/s"] if load.tokens_per_s else []
    talkers = 0 if talker is None else replicas.talker
    lines += [
        "",
        f"For {', '.join(wants)}, at 0.8 of the slots (assumed):",
        f"  gateway     {replicas.gateway}",
        f"  preprocess  {replicas.preprocess}",
        f"  thinker     {replicas.thinker} ({replicas.thinker * thinker.gpus} × {thinker.gpu.name})",
        *([f"  talker      {talkers} ({talkers} × {talker.gpu.name})"] if talker is not None else []),
        "",
        NOTE,
        *([TALKER_NOTE] if talker is not None else ["Measured: nothing on GPUs yet."]),
        "Watch the queue's age and the slots, and let the scaler decide.",
    ]
    return lines


def _explain_talker(talker: TalkerPlan, video_s: int) -> list[str]:
    gpu = talker.gpu
    kind = f"1 × {gpu.name}"
    source = "measured" if gpu.name == MEASURED_ON else "assumed"
    lines = [
        f"counted     the talker                {talker.need_gib:g} GiB: weights, workspace, a stream with {video_s} s "
        "of video",
        f"            {kind:<25} {talker.have_gib:g} GiB: {talker.fraction} (assumed) of {gpu.memory_gib:g} GiB",
        f"            memory for {talker.most_slots} streams of {USUAL_PROMPT_TOKENS + MAX_FRAMES} tokens, or for "
        f"{talker.video_streams} with {video_s} s of video each",
        f"{source:<10}  real time                 {gpu.realtime_streams} streams → {talker.slots} slots",
    ]
    slice_plan = None if gpu.mig else _smallest_slice(gpu, video_s)
    if slice_plan is not None:
        lines.append(
            "            a slice would do where MIG is on: "
            f"--talker-gpu {slice_plan.gpu.name} ({slice_plan.slots} slots)"
        )
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
