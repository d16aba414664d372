"""The speech stages on a few made-up sounds: each trains a few steps, goes on from its file, and fits the next one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.local.checkpoint.architecture import CODEBOOKS
from services.talker.checkpoint import SpeechConfig, SpeechModels
from services.talker.conditioning import Conditioner, read_prompt
from training.config import CODEBOOK, CODEC_BOS, FRAME_SAMPLES, make_config
from training.hibari_voice import SPACE
from training.speech.codec import Codec, fit, patches
from training.speech.codes import CodedUtterance, read_codes, write_codes
from training.speech.corpus import LABELS_PER_FRAME, Utterance
from training.speech.fit_codec import encode
from training.speech.talker import TinyTalker
from training.speech.train_code2wav import SCHEDULE as CODE2WAV_SCHEDULE
from training.speech.train_code2wav import train_code2wav
from training.speech.train_talker import GUIDED, train_talker
from training.speech.train_talker import SCHEDULE as TALKER_SCHEDULE
from training.world.tokenizer import HIDDEN, build_tokenizer, vocab_size

FRAMES = 16
ANSWERS = ("Two plus three is five.", "I see a red star.")
WORDS = (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5)
"""The word that each frame says: silence before the first counts to it, silence after the last is one more."""


def utterance(text: str, pitch: float) -> Utterance:
    time = np.arange(FRAMES * FRAME_SAMPLES) / 24_000
    sound = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in (1, 2, 3))
    labels = np.full((FRAMES, LABELS_PER_FRAME), int(pitch) % 100 + 20, np.int16)
    labels[[0, -1]] = 0
    labels[[index - 1 for index in range(1, FRAMES - 1) if WORDS[index] > WORDS[index - 1]], -1] = SPACE
    return Utterance(text, "ethan", (3000 * np.asarray(sound)).astype(np.int16), labels)


@pytest.fixture(scope="module")
def said() -> list[Utterance]:
    return [utterance(text, pitch) for text, pitch in zip(ANSWERS, (110.0, 220.0), strict=True)]


@pytest.fixture(scope="module")
def codec(said: list[Utterance]) -> Codec:
    return fit(said)


@pytest.fixture(scope="module")
def coded(said: list[Utterance], codec: Codec) -> list[CodedUtterance]:
    return [encode(codec, one) for one in said]


def test_codes_bring_a_spectrum_back(codec: Codec, said: list[Utterance], tmp_path: Path) -> None:
    codec.save(tmp_path / "codec.pt")
    loaded = Codec.load(tmp_path / "codec.pt")
    for one in said:
        codes = loaded.encode(one)
        assert codes.shape == (FRAMES, CODEBOOKS)
        assert int(codes.max()) < CODEBOOK
        assert (loaded.decode(codes) - patches(one)).square().mean() < 0.05 * patches(one).var()
    assert not torch.equal(codec.encode(said[0])[:, 0], codec.encode(said[1])[:, 0])


def test_codes_are_read_as_they_were_written(coded: list[CodedUtterance], tmp_path: Path) -> None:
    write_codes(tmp_path / "0.npz", coded)
    for one, other in zip(coded, read_codes(tmp_path / "0.npz"), strict=True):
        assert (one.text, one.voice) == (other.text, other.voice)
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.words, other.words)


def test_each_frame_has_its_word(coded: list[CodedUtterance]) -> None:
    assert all(tuple(one.words.tolist()) == WORDS for one in coded)


def test_code2wav_trains_and_decodes(
    codec: Codec, said: list[Utterance], coded: list[CodedUtterance], tmp_path: Path
) -> None:
    pairs = [(one, other.sound) for one, other in zip(coded, said, strict=True)]
    schedule = replace(CODE2WAV_SCHEDULE, steps=2)
    code2wav = train_code2wav(pairs, codec.code_vectors(), tmp_path / "code2wav.pt", schedule)
    with torch.inference_mode():
        assert code2wav(coded[0].codes.T[None]).shape == (1, 1, FRAMES * FRAME_SAMPLES - 555)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(coded: list[CodedUtterance], tmp_path: Path) -> None:
    schedule = replace(TALKER_SCHEDULE, steps=2)
    whole = train_talker(coded, [1, 1], tmp_path / "whole.pt", schedule)
    train_talker(coded, [1, 1], tmp_path / "parts.pt", schedule, stop_after=1)
    parts = train_talker(coded, [1, 1], tmp_path / "parts.pt", schedule)
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def attention_to_words(model: TinyTalker, one: CodedUtterance) -> float:
    """Return the mean attention that a guided head gives to the token of the word being said."""
    layer, head, _ = GUIDED[0]
    model.talker.model.config._attn_implementation = "eager"
    prompt = torch.cat((model.user_turn("what is that?"), model.answer_start(one.voice)))
    begin = torch.cat((model.codec(torch.tensor([CODEC_BOS])), model.frame_embeds(one.codes[:-1])))
    answer = begin + model.text(torch.tensor(model.spoken(one.text, one.frames)))
    with torch.inference_mode():
        _, attentions = model.attended(torch.cat((prompt, answer))[None])
    said = attentions[layer][0, head, len(prompt) :, len(prompt) :]
    return float(said[torch.arange(one.frames), one.words].mean())


def test_training_draws_attention_to_the_word_being_said(coded: list[CodedUtterance], tmp_path: Path) -> None:
    before = attention_to_words(TinyTalker(), coded[0])
    trained = train_talker(coded, [1, 1], tmp_path / "talker.pt", replace(TALKER_SCHEDULE, steps=12, warmup=1))
    assert attention_to_words(trained, coded[0]) > 1.5 * before


def test_the_same_seed_speaks_the_same_codes() -> None:
    talker = TinyTalker().eval()
    first, again = (talker.speak(ANSWERS, "aiden", seed=3, max_frames=3) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(codes.shape == (3, CODEBOOKS) and int(codes.max()) < CODEBOOK for codes in first)


def test_the_talker_is_trained_on_what_the_server_feeds_it() -> None:
    model = TinyTalker()
    tokenizer, ids = build_tokenizer()
    config = SpeechConfig.from_config(make_config(ids, vocab_size(tokenizer), speaks=True))
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
        assert torch.allclose(ours, conditioner.prompt_embeds(prompt), atol=1e-5)
        codes = torch.randint(CODEBOOK, (5, CODEBOOKS))
        assert torch.allclose(model.frame_embeds(codes), conditioner.frame_embeds(codes), atol=1e-5)
