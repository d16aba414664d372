"""Loading: the same tensors as transformers', and only those that speech needs."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile

from services.talker.checkpoint import SpeechModels, load_speech_models
from services.talker.weights import CheckpointError
from tests.fixtures.oracle import Oracle
from tests.talker.released import SIZES, random_models, write_checkpoint


def test_modules_hold_the_tensors_that_transformers_loads(speech_models: SpeechModels, oracle: Oracle) -> None:
    for ours, theirs in (
        (speech_models.talker, oracle.model.talker),
        (speech_models.code2wav, oracle.model.code2wav),
    ):
        expected = {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}
        loaded = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert torch.equal(speech_models.text_embedding, oracle.model.thinker.get_input_embeddings().weight)


def test_files_of_the_thinker_are_not_read(tiny_instruct: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_instruct / "config.json", tmp_path)
    tensors = load_file(tiny_instruct / "model.safetensors")
    parts = {
        "a.safetensors": {name: tensor for name, tensor in tensors.items() if name.startswith("talker.")},
        "b.safetensors": {
            name: tensor
            for name, tensor in tensors.items()
            if name.startswith("code2wav.") or name == "thinker.model.embed_tokens.weight"
        },
    }
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    weight_map = {name: file for file, part in parts.items() for name in part}
    weight_map |= {name: "absent.safetensors" for name in tensors if name not in weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    models = load_speech_models(tmp_path)
    assert torch.equal(models.talker.codec_head.weight, tensors["talker.codec_head.weight"])


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_dtype_follows_the_checkpoint_or_the_setting(tiny_instruct: Path, dtype: str, expected: torch.dtype) -> None:
    models = load_speech_models(tiny_instruct, dtype=dtype)
    assert {parameter.dtype for parameter in models.talker.parameters()} == {expected}
    assert {parameter.dtype for parameter in models.code2wav.parameters()} == {expected}
    assert models.dtype == expected
    assert models.talker.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(("named", "expected"), [("float32", torch.float32), (None, torch.float16)])
def test_auto_is_what_the_config_names_or_how_weights_are_stored(
    tiny_instruct: Path, tmp_path: Path, named: str | None, expected: torch.dtype
) -> None:
    config = json.loads((tiny_instruct / "config.json").read_text()) | {"dtype": named}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tiny_instruct / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    models = load_speech_models(tmp_path)
    assert models.dtype == expected
    assert {parameter.dtype for parameter in models.talker.parameters()} == {expected}
    assert torch.equal(models.talker.codec_head.weight, tensors["talker.codec_head.weight"].half().to(expected))


def test_a_checkpoint_without_a_talker_is_refused(tiny_thinking: Path) -> None:
    with pytest.raises(CheckpointError, match="no talker"):
        load_speech_models(tiny_thinking)


def test_a_folder_without_weights_is_refused(tiny_instruct: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config"):
        load_speech_models(tmp_path)
    shutil.copy(tiny_instruct / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="safetensors"):
        load_speech_models(tmp_path)


def test_a_missing_tensor_is_named(tiny_instruct: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_instruct / "config.json", tmp_path)
    tensors = load_file(tiny_instruct / "model.safetensors")
    del tensors["talker.codec_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"codec_head\.weight"):
        load_speech_models(tmp_path)


def test_the_default_voice_is_ethan_or_the_first(speech_models: SpeechModels) -> None:
    config = speech_models.config
    assert config.default_voice == "ethan"
    assert dataclasses.replace(config, voices={"b": 1, "a": 2}).default_voice == "b"


@pytest.fixture(scope="module")
def many_experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SpeechModels]:
    """Return a checkpoint with as many experts as the released one, stored one matrix each, and its models."""
    folder = tmp_path_factory.mktemp("many-experts")
    models = random_models(SIZES["many experts"], torch.device("cpu"), torch.bfloat16)
    write_checkpoint(models, SIZES["many experts"], folder)
    return folder, models


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_loading_takes_no_more_memory_than_the_weights(many_experts: tuple[Path, SpeechModels], dtype: str) -> None:
    folder, _ = many_experts
    gc.collect()  # what another test left behind would be freed within the count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        models = load_speech_models(folder, dtype=dtype)
    events: list[Any] = cast(Any, profiled.profiler).kineto_results.events()
    events.sort(key=lambda event: event.start_ns())
    mapped = {
        path.stat().st_size for path in folder.glob("*.safetensors")
    }  # mapped files are not the process's own memory
    allocated = [event.nbytes() for event in events if event.name() == "[memory]" and abs(event.nbytes()) not in mapped]
    peak = max(itertools.accumulate(allocated))
    experts = sum(weights.nbytes for name, weights in models.talker.named_parameters() if ".experts." in name)
    assert experts > 0.7 * models.bytes
    assert experts <= peak <= 1.05 * models.bytes  # on a CPU the rest may be views of the file


def test_fused_experts_equal_the_stored_ones(many_experts: tuple[Path, SpeechModels]) -> None:
    folder, written = many_experts
    loaded = load_speech_models(folder)
    for ours, theirs in ((loaded.talker, written.talker), (loaded.code2wav, written.code2wav)):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert torch.equal(loaded.text_embedding, written.text_embedding)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("talker.model.layers.1.mlp.experts.3.up_proj.weight"), r"missing .*3\.up_proj"),
        (lambda tensors: tensors.update({"talker.extra.weight": torch.zeros(1)}), r"unknown talker\.extra"),
        (
            lambda tensors: tensors.update({"talker.model.layers.1.mlp.experts.0.gate_proj.weight": torch.zeros(2, 2)}),
            r"0\.gate_proj\.weight has the shape \[2, 2\], expected \[",
        ),
    ],
)
def test_experts_that_do_not_fit_are_named(
    tiny_instruct: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], told: str
) -> None:
    shutil.copy(tiny_instruct / "config.json", tmp_path)
    tensors = load_file(tiny_instruct / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=told):
        load_speech_models(tmp_path)


def test_a_broken_file_is_named(tiny_instruct: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_instruct / "config.json", tmp_path)
    whole = (tiny_instruct / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no whole safetensors file"):
        load_speech_models(tmp_path)
