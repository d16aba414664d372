from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3OmniMoeForConditionalGeneration, Qwen3OmniMoeProcessor

from services.common.model_card import kind_of, read_config
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint
from services.local.checkpoint.build import build_checkpoint
from services.local.checkpoint.tokenizer import SPECIAL_TOKENS
from services.local.checkpoint.trained import TRAINED_DIR
from tests.fixtures.wait import HANGS_AFTER_S

FOLDERS = ["tiny_instruct", "tiny_thinking", "tiny_captioner", "trained_instruct"]


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_concurrent_builds_leave_one_complete_identical_folder(tiny_captioner: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from services.local.checkpoint import *; "
        "cached_checkpoint(Kind.CAPTIONER, Path(sys.argv[1]))"
    )
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
        )
        for threads in ("1", "2")
    ]
    assert [builder.wait(timeout=HANGS_AFTER_S) for builder in builders] == [0, 0]
    folder = cached_checkpoint(Kind.CAPTIONER, tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert digests(folder) == digests(tiny_captioner)


def test_builds_of_the_talker_are_identical(tiny_instruct: Path, tmp_path: Path) -> None:
    build_checkpoint(Kind.INSTRUCT, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tiny_instruct)


def test_the_cache_folder_follows_the_environment(tmp_path: Path) -> None:
    assert default_cache_dir({"ANTIPHON_CACHE": "/a", "XDG_CACHE_HOME": "/x"}) == Path("/a")
    assert default_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/antiphon")
    assert default_cache_dir({}) == Path.home() / ".cache/antiphon"


@pytest.mark.parametrize("fixture", FOLDERS)
def test_a_checkpoint_is_small_and_loads_completely(fixture: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 30_000_000
    loaded: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.has_talker == fixture.endswith("_instruct")
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


@pytest.mark.parametrize("config", sorted(TRAINED_DIR.glob("*/config.json")), ids=lambda path: path.parent.name)
def test_a_trained_checkpoint_is_small_and_its_speech_follows_its_text(config: Path) -> None:
    folder = config.parent
    (kind,) = (kind for kind in Kind if kind.trained_name == folder.name)
    assert kind_of(read_config(folder), folder.name) == kind
    assert "random_weights" not in read_config(folder)  # else talkers would not look for derailed speech
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 25_000_000
    assert folder.name in (TRAINED_DIR / "README.md").read_text()


def test_special_tokens_have_the_released_order(tiny_instruct: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_instruct)
    first = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == list(range(first, first + len(SPECIAL_TOKENS)))
    # The released ids, relative to <|endoftext|> = 151643.
    offsets = {"<|im_end|>": 2, "<|image_pad|>": 12, "<|audio_start|>": 26, "<tts_text_bos>": 29, "<|audio_pad|>": 32}
    assert {text: tokenizer.convert_tokens_to_ids(text) - first for text in offsets} == offsets


@pytest.mark.parametrize("text", ["Straße, où, ñ", "今天天气很好。", "😀🚀 مرحبا"])
def test_the_tokenizer_round_trips_any_text(text: str, tiny_instruct: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_instruct)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_has_the_released_form(tiny_instruct: Path) -> None:
    processor = Qwen3OmniMoeProcessor.from_pretrained(tiny_instruct)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "What is it?"}]},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|>What is it?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_thinking_opens_a_thought_and_drops_earlier_ones(tiny_thinking: Path) -> None:
    processor = Qwen3OmniMoeProcessor.from_pretrained(tiny_thinking)
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nBecause."},
        {"role": "user", "content": "Really?"},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n"
        "<|im_start|>user\nReally?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


@pytest.mark.parametrize(("fixture", "end"), [("tiny_instruct", "<|im_end|>"), ("tiny_thinking", "</think>")])
def test_answers_vary_and_reach_their_end(fixture: str, end: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder).eval()
    answers: list[list[int]] = []
    for question in ("Hello", "Tell me a story about a fox.", "def f(x):", "Translate: good morning"):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        whole = model.thinker.generate(**prompt, max_new_tokens=80, do_sample=False, eos_token_id=2050)
        answers.append(whole[0, prompt["input_ids"].shape[1] :].tolist())
    assert all(len(set(answer)) > 5 for answer in answers)
    assert any(tokenizer.convert_tokens_to_ids(end) in answer for answer in answers)
    assert max(max(answer) for answer in answers) <= tokenizer.convert_tokens_to_ids("</think>")


def test_speech_ends_soon_after_its_text(tiny_instruct: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_instruct)
    model: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(tiny_instruct).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    greedy = {"thinker_do_sample": False, "talker_do_sample": False, "talker_repetition_penalty": 1.0}
    _, speech = model.generate(**prompt, thinker_max_new_tokens=20, talker_max_new_tokens=200, **greedy)
    frames = (speech.numel() + 555) / 1920
    assert 15 <= frames <= 40
    assert 0.01 < float(speech.square().mean().sqrt()) < 0.5
