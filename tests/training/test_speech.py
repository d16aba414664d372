"""The speech stages on a few made-up sounds: each trains a few steps, goes on from its file, and fits the next one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.local.checkpoint.kinds import Kind
from services.talker.checkpoint import SpeechConfig, SpeechModels
from services.talker.conditioning import Conditioner, read_prompt
from training.assemble import UntrainedPartError, assemble
from training.config import CODEBOOK, CODEBOOKS, FRAME_SAMPLES, make_config
from training.speech.codes import CodedUtterance
from training.speech.corpus import LABELS_PER_FRAME, Utterance
from training.speech.talker import TinyTalker
from training.speech.train_code2wav import SCHEDULE as CODE2WAV_SCHEDULE
from training.speech.train_code2wav import train_code2wav
from training.speech.train_codec import SCHEDULE as CODEC_SCHEDULE
from training.speech.train_codec import encode, train_codec
from training.speech.train_talker import SCHEDULE as TALKER_SCHEDULE
from training.speech.train_talker import train_talker
from training.world.tokenizer import HIDDEN, build_tokenizer, vocab_size

FRAMES = 16
ANSWERS = ("Two plus three is five.", "I see a red star.")


def utterance(text: str, pitch: float) -> Utterance:
    time = np.arange(FRAMES * FRAME_SAMPLES) / 24_000
    sound = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in (1, 2, 3))
    labels = np.full((FRAMES, LABELS_PER_FRAME), int(pitch) % 100, np.int16)
    return Utterance(text, "ethan", (3000 * np.asarray(sound)).astype(np.int16), labels)


@pytest.fixture(autouse=True)
def few_threads() -> None:
    torch.set_num_threads(1)


def test_the_stages_train_one_after_the_other(tmp_path: Path) -> None:
    said = [utterance(text, pitch) for text, pitch in zip(ANSWERS, (110.0, 220.0), strict=True)]
    codec = train_codec(said, tmp_path / "codec.pt", replace(CODEC_SCHEDULE, steps=3))
    coded = [CodedUtterance(one.text, one.voice, encode(codec, one)) for one in said]
    assert coded[0].codes.shape == (FRAMES, CODEBOOKS)
    assert int(coded[0].codes.max()) < CODEBOOK
    assert not torch.equal(coded[0].codes, coded[1].codes)

    sounds = [one.sound for one in said]
    pairs = list(zip(coded, sounds, strict=True))
    code2wav = train_code2wav(pairs, codec.code_vectors(), tmp_path / "c.pt", replace(CODE2WAV_SCHEDULE, steps=2))
    with torch.inference_mode():
        assert code2wav(coded[0].codes.T[None]).shape == (1, 1, FRAMES * FRAME_SAMPLES - 555)

    talker = train_talker(coded, [1, 1], tmp_path / "talker.pt", replace(TALKER_SCHEDULE, steps=2))
    first, again = (talker.speak(ANSWERS, "aiden", seed=3, max_frames=4) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(codes.shape[1] == CODEBOOKS and int(codes.max()) < CODEBOOK for codes in first if len(codes))


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    said = [utterance(text, pitch) for text, pitch in zip(ANSWERS, (110.0, 220.0), strict=True)]
    schedule = replace(CODEC_SCHEDULE, steps=4)
    whole = train_codec(said, tmp_path / "whole.pt", schedule)
    train_codec(said, tmp_path / "parts.pt", schedule, stop_after=2)
    parts = train_codec(said, tmp_path / "parts.pt", schedule)
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_the_talker_is_trained_on_what_the_server_feeds_it() -> None:
    model = TinyTalker()
    tokenizer, ids = build_tokenizer()
    config = SpeechConfig.from_config(make_config(Kind.INSTRUCT, ids, vocab_size(tokenizer)))
    conditioner = Conditioner(SpeechModels(config, model.talker, None, model.table))
    media, question = torch.randn(3, HIDDEN), "what is that sound?"
    text = f"<|im_start|>user\n<|audio_start|>{3 * '<|audio_pad|>'}<|audio_end|>{question}<|im_end|>\n"
    prompt = read_prompt(
        config,
        model.encode(f"{text}<|im_start|>assistant\n"),
        image_grids=(),
        video_grids=(),
        hidden_states=media,
        voice="aiden",
    )
    with torch.inference_mode():
        ours = torch.cat((model.user_turn(question, media), model.answer_start("aiden")))
        assert torch.equal(ours, conditioner.prompt_embeds(prompt))
        codes = torch.randint(CODEBOOK, (5, CODEBOOKS))
        assert torch.allclose(sum(model.frames(codes)), conditioner.frame_embeds(codes), atol=1e-5)


def test_a_kind_is_not_assembled_while_parts_are_missing(tmp_path: Path) -> None:
    with pytest.raises(UntrainedPartError, match="thinker"):
        assemble(Kind.CAPTIONER, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
