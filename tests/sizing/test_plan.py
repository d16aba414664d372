"""Properties of the sizing rules, and the plans in the documents."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.gpu_memory import GIB, DoesNotFitError
from services.common.talker_memory import RELEASED_COSTS, RELEASED_WEIGHTS, WORKSPACE_BYTES, blocks_for, streams_bytes
from services.sizing.document import PAGE, page_with_tables
from services.sizing.gpus import GPUS, MEASURED_ON, MEASURED_STREAMS, Gpu
from services.sizing.load import Load, replicas_for
from services.sizing.plan import (
    LEN_ONE_GPU,
    LEN_TENSOR_PARALLEL,
    NODES,
    THINKER_FRACTION,
    model_named,
    nodes_needed,
    plan_talker,
    plan_thinker,
    talker_gib,
    talker_room,
    thinker_room,
)
from services.sizing.table import KV_HEADS, MODELS, QUERY_HEADS, TENSOR_PARALLEL, VIDEO_S, Model, prompt_tokens

models = st.sampled_from(list(MODELS.values()))
memory = st.floats(4, 400).map(lambda gib: round(gib, 2))
amounts = st.floats(0, 1e6)


def gpus_needed(model: Model, video_s: int, gib: float) -> float:
    try:
        return plan_thinker(model, video_s, Gpu("some", gib)).tensor_parallel
    except DoesNotFitError:
        return float("inf")


def slots_of(video_s: int, gib: float) -> int:
    try:
        return plan_talker(video_s, Gpu("some", gib)).slots
    except DoesNotFitError:
        return 0


@given(models, st.sampled_from(VIDEO_S), memory, memory)
def test_more_memory_never_needs_more_gpus(model: Model, video_s: int, one: float, other: float) -> None:
    assert gpus_needed(model, video_s, max(one, other)) <= gpus_needed(model, video_s, min(one, other))


@given(models, st.sampled_from(VIDEO_S), st.sampled_from(VIDEO_S), memory)
def test_a_longer_video_never_needs_fewer_gpus(model: Model, one: int, other: int, gib: float) -> None:
    assert gpus_needed(model, max(one, other), gib) >= gpus_needed(model, min(one, other), gib)


@given(models, st.sampled_from(VIDEO_S), memory)
def test_a_plan_fits_and_one_step_less_does_not(model: Model, video_s: int, gib: float) -> None:
    gpu = Gpu("some", gib)
    try:
        plan = plan_thinker(model, video_s, gpu)
    except DoesNotFitError:
        assert all(thinker_room(gpu, size) < 131.65 for size in TENSOR_PARALLEL)
        return
    assert plan.have_gib >= plan.need_gib
    assert plan.have_gib <= gib * plan.tensor_parallel * THINKER_FRACTION + 0.01
    assert QUERY_HEADS % plan.tensor_parallel == 0
    assert KV_HEADS % plan.tensor_parallel == 0 or plan.tensor_parallel % KV_HEADS == 0
    if plan.tensor_parallel > 1:
        assert thinker_room(gpu, plan.tensor_parallel // 2) < plan.need_gib
    assert plan.max_model_len == (LEN_TENSOR_PARALLEL if plan.tensor_parallel >= 4 else LEN_ONE_GPU)


@given(st.sampled_from(VIDEO_S), st.sampled_from(VIDEO_S), memory, memory)
def test_talker_slots_grow_with_memory_and_shrink_with_video(one: int, other: int, less: float, more: float) -> None:
    assert slots_of(one, max(less, more)) >= slots_of(one, min(less, more))
    assert slots_of(max(one, other), less) <= slots_of(min(one, other), less)
    assert talker_gib(max(one, other)) >= talker_gib(min(one, other))


@pytest.mark.parametrize("name", [name for name, gpu in GPUS.items() if gpu.memory_gib > 10])
@pytest.mark.parametrize("video_s", VIDEO_S)
def test_a_talkers_plan_fits_its_streams(name: str, video_s: int) -> None:
    plan = plan_talker(video_s, GPUS[name])
    assert 1 <= plan.video_streams <= plan.most_slots
    assert 1 <= plan.slots == min(plan.most_slots, GPUS[name].realtime_streams)
    for streams, tokens in ((plan.most_slots, 512 + 4095), (plan.video_streams, prompt_tokens(video_s) + 4095)):
        taken = (
            RELEASED_WEIGHTS + WORKSPACE_BYTES + streams_bytes(RELEASED_COSTS, streams, streams * blocks_for(tokens))
        )
        assert taken / GIB <= plan.have_gib + 0.01


def test_the_measured_streams_fit_the_gpu_they_were_measured_on() -> None:
    measured = json.loads((Path(__file__).parents[2] / "bench/results/talker_gpu.json").read_text())
    gpu = GPUS[MEASURED_ON]
    assert "H100 80GB" in measured["machine"]["gpu"]
    assert measured["slots"] == gpu.realtime_streams == plan_talker(60, gpu).slots == MEASURED_STREAMS
    assert measured["engine"][str(gpu.realtime_streams)]["slowest_stream_real_time_factor"] < 0.8
    assert measured["weights_mb"] * 1e6 == RELEASED_WEIGHTS
    blocks = gpu.realtime_streams * 40  # 512 prompt tokens and 2,048 frames
    kv_and_state = (
        streams_bytes(RELEASED_COSTS, gpu.realtime_streams, blocks) - gpu.realtime_streams * RELEASED_COSTS.step
    )
    assert kv_and_state == pytest.approx(measured["streams_mb"] * 1e6, rel=0.01)


def test_twenty_streams_take_one_talker_on_a_whole_gpu_or_on_a_slice() -> None:
    for name in ("h100-80gb", "h100-80gb-mig-1g.20gb", "h200-141gb-mig-1g.18gb", "l40s-48gb"):
        assert replicas_for(Load(20), 8, plan_talker(60, GPUS[name]).slots).talker == 1


def test_no_gpu_is_assumed_faster_than_the_measured_one() -> None:
    assert all(0 < gpu.realtime_streams <= MEASURED_STREAMS for gpu in GPUS.values())
    assert GPUS["h100-80gb-mig-1g.20gb"].realtime_streams == MEASURED_STREAMS // 7


@given(amounts, amounts, amounts, amounts, st.integers(1, 64), st.integers(0, 64))
def test_a_larger_load_never_needs_fewer_replicas(
    one: float, other: float, minutes: float, tokens: float, thinker_slots: int, talker_slots: int
) -> None:
    small = replicas_for(Load(min(one, other), minutes, tokens), thinker_slots, talker_slots)
    large = replicas_for(Load(max(one, other), minutes, tokens), thinker_slots, talker_slots)
    for name in ("gateway", "preprocess", "thinker", "talker"):
        assert getattr(large, name) >= getattr(small, name) >= (name != "talker" or talker_slots > 0)
    assert large.thinker * thinker_slots >= max(one, other)
    assert not talker_slots or large.talker * talker_slots >= max(one, other)


@pytest.mark.parametrize(
    ("model", "video_s", "gpu", "gpus"),
    [
        ("thinking", 15, "h100-80gb", 1),
        ("thinking", 30, "h100-80gb", 2),
        ("instruct", 60, "a100-80gb", 2),
        ("instruct", 120, "h200-141gb", 1),
        ("instruct", 15, "l4-24gb", 4),
        ("instruct", 120, "l4-24gb", 8),
        ("instruct", 15, "l40s-48gb", 2),
        ("captioner", 15, "b200-180gb", 1),
    ],
)
def test_common_gpus(model: str, video_s: int, gpu: str, gpus: int) -> None:
    assert plan_thinker(MODELS[model], video_s, GPUS[gpu]).tensor_parallel == gpus


@given(models, st.sampled_from(VIDEO_S), memory, st.sampled_from(TENSOR_PARALLEL), st.sampled_from(NODES))
def test_a_plan_over_nodes_fits_and_respects_the_limit(
    model: Model, video_s: int, gib: float, per_node: int, most: int
) -> None:
    gpu = Gpu("some", gib)
    try:
        plan = plan_thinker(model, video_s, gpu, per_node, most)
    except DoesNotFitError:
        assert nodes_needed(model, video_s, gpu, per_node) not in range(1, most + 1)
        return
    assert plan.have_gib >= plan.need_gib
    assert plan.nodes in NODES
    assert plan.nodes <= most
    assert plan.nodes == nodes_needed(model, video_s, gpu, per_node)
    if plan.nodes > 1:
        assert plan.tensor_parallel == per_node, "whole nodes"
        assert thinker_room(gpu, plan.gpus // 2, plan.nodes // 2) < plan.need_gib
        with pytest.raises(DoesNotFitError):
            plan_thinker(model, video_s, gpu, per_node)


def test_a_pipeline_stage_begins_at_the_talkers_layer() -> None:
    layers, listens_at = 48, 24  # the released checkpoint's config.json
    for nodes in NODES[1:]:
        assert layers % nodes == 0
        assert listens_at % (layers // nodes) == 0


@pytest.mark.parametrize(
    ("model", "video_s", "gpu", "per_node", "nodes"),
    [
        ("instruct", 15, "l4-24gb", 2, 2),
        ("instruct", 15, "l4-24gb", 1, 4),
        ("instruct", 30, "l4-24gb", 1, 8),
        ("thinking", 120, "h100-80gb", 1, 2),
        ("thinking", 15, "h100-80gb", 1, 1),
    ],
)
def test_common_nodes(model: str, video_s: int, gpu: str, per_node: int, nodes: int) -> None:
    assert nodes_needed(MODELS[model], video_s, GPUS[gpu], per_node) == nodes


def test_a_gpus_model_length_does_not_depend_on_its_nodes() -> None:
    for model in MODELS.values():
        for video_s in model.video_s:
            for gpu in (gpu for gpu in GPUS.values() if not gpu.mig):
                whole = plan_thinker(model, video_s, gpu).max_model_len
                for per_node in TENSOR_PARALLEL:
                    assert plan_thinker(model, video_s, gpu, per_node, NODES[-1]).max_model_len == whole


@pytest.mark.parametrize("name", [gpu.name for gpu in GPUS.values() if gpu.mig])
def test_a_thinker_fits_no_slice_but_the_suggested_gpu(name: str) -> None:
    with pytest.raises(DoesNotFitError, match="cannot be joined") as refusal:
        plan_thinker(MODELS["thinking"], 120, GPUS[name])
    nearest = re.search(r"nearest that can: (\d) × (\S+)", str(refusal.value))
    assert nearest is not None
    assert thinker_room(GPUS[nearest[2]], int(nearest[1])) >= 131.65


@pytest.mark.parametrize("video_s", VIDEO_S)
def test_a_refused_talker_fits_the_suggested_gpu(video_s: int) -> None:
    with pytest.raises(DoesNotFitError) as refusal:
        plan_talker(video_s, GPUS["a100-80gb-mig-1g.10gb"])
    nearest = GPUS[str(refusal.value).rpartition(": ")[2]]
    assert plan_talker(video_s, nearest).slots >= 1
    assert all(
        talker_room(gpu) < plan_talker(video_s, nearest).need_gib
        for gpu in GPUS.values()
        if gpu.memory_gib < nearest.memory_gib
    )


@pytest.mark.parametrize(
    ("name", "video_s", "told"), [("omni", 15, "model"), ("captioner", 30, "video_s"), ("instruct", 45, "video_s")]
)
def test_values_outside_the_table_are_named(name: str, video_s: int, told: str) -> None:
    with pytest.raises(DoesNotFitError, match=told):
        model_named(name, video_s)


def test_the_tables_in_the_documents_are_up_to_date() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text()
    assert page_with_tables(page) == page
    for gpu in GPUS.values():
        assert f"| {gpu.name} ({gpu.memory_gib:g} GiB) |" in page
