"""What is loaded is what transformers loads, and only what speech needs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.talker.checkpoint import CheckpointError, SpeechModels, load_speech_models
from tests.fixtures.oracle import Oracle


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


def test_a_checkpoint_in_several_files_is_read_without_the_thinkers(tiny_instruct: Path, tmp_path: Path) -> None:
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
