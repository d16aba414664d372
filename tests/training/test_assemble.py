"""Assembled checkpoints: transformers and the talker's service load them, and none is written with a part missing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from services.local.checkpoint.kinds import Kind
from services.talker.checkpoint import load_speech_models
from tests.training.hum import hum
from training.assemble import UntrainedPartError, assemble, trained_weights, weights_of
from training.config import SPEAKERS
from training.loop import Schedule, train
from training.mind.answering import Model
from training.mind.dialogues import draw_dialogue
from training.mind.fresh import FreshSource
from training.mind.model import new_thinker, tokenizer_and_ids
from training.restore import restore
from training.speech.talker import TinyTalker
from training.speech.train_code2wav import make_code2wav
from training.world.tokenizer import vocab_size


@pytest.fixture(scope="module")
def thinker() -> Any:
    return new_thinker(1).eval()


def test_an_assembled_checkpoint_answers(tmp_path: Path, thinker: Any) -> None:
    folder = tmp_path / Kind.THINKING.trained_name
    weights = weights_of({"thinker": thinker})
    assemble(Kind.THINKING, folder, weights, speaks=False)
    stored = load_file(folder / "model.safetensors")
    assert {values.dtype for values in stored.values()} == {torch.float16}
    model = Model(folder)
    for name, values in model.thinker.state_dict().items():
        torch.testing.assert_close(values, weights[f"thinker.{name}"].float(), rtol=0, atol=0)
    source = FreshSource(hum)
    dialogue = draw_dialogue(source, random.Random(5))
    assert isinstance(model.answer(dialogue, source), str)
    tokenizer, ids = tokenizer_and_ids()
    assert model.processor.tokenizer.encode("two plus three") == tokenizer.encode("two plus three").ids
    assert model.processor.tokenizer.convert_tokens_to_ids("<|audio_pad|>") == ids["<|audio_pad|>"]


def test_the_talkers_service_loads_an_assembled_checkpoint(tmp_path: Path, thinker: Any) -> None:
    folder = tmp_path / Kind.INSTRUCT.trained_name
    talker = TinyTalker().talker
    weights = weights_of({"thinker": thinker, "talker": talker, "code2wav": make_code2wav()})
    assemble(Kind.INSTRUCT, folder, weights, speaks=True)
    loaded = load_speech_models(folder, dtype="float32")
    assert loaded.dtype == torch.float32
    assert loaded.config.voices == SPEAKERS
    assert len(loaded.text_embedding) == vocab_size(tokenizer_and_ids()[0])
    for name, values in loaded.talker.state_dict().items():
        torch.testing.assert_close(values, weights[f"talker.{name}"].float(), rtol=0, atol=0)


def test_a_checkpoint_goes_back_into_the_cache_and_its_stages_go_on(
    tmp_path: Path, thinker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_TRAINING", str(tmp_path / "cache"))
    folder = tmp_path / Kind.INSTRUCT.trained_name
    weights = weights_of({"thinker": thinker, "talker": TinyTalker().talker, "code2wav": make_code2wav()})
    assemble(Kind.INSTRUCT, folder, weights, speaks=True)
    written = restore(folder)
    again = trained_weights(Kind.INSTRUCT, speaks=True)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], values) for name, values in weights.items())
    assert restore(folder) == []
    path = next(path for path in written if path.name == "code2wav.pt")
    model = make_code2wav()

    def norm(_: int) -> dict[str, torch.Tensor]:
        return {"loss": torch.stack([values.square().sum() for values in model.parameters()]).sum()}

    assert train("code2wav", path, model, Schedule(1, 1e-6), norm) == 1
    learned = torch.load(path, weights_only=True)["model"]
    for name, values in learned.items():
        torch.testing.assert_close(values, again[f"code2wav.{name}"].float(), atol=1e-5, rtol=1e-3)


def test_a_checkpoint_is_not_assembled_while_parts_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UntrainedPartError, match="thinker"):
        assemble(Kind.CAPTIONER, tmp_path / "out", {}, speaks=False)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("ANTIPHON_TRAINING", str(tmp_path))
    with pytest.raises(UntrainedPartError, match=r"vision\.pt"):
        trained_weights(Kind.INSTRUCT, speaks=True)
