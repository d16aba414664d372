"""Trains the talker by teacher forcing on the codec's codes: `python -m training.speech.train_talker`.

Against exposure bias the frames that are fed are spoilt: some carry other codes, some repeat their neighbour, some lack
the residual codes. Prompts are of all kinds and lengths, with noise for the hidden states of media: speech must not
depend on them.

Codes can mostly be guessed from the codes before, and so teach little about the text. That is why attention is drawn to
the token of the word being said, as guided attention does (Tachibana et al. 2017); here the alignment is known.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from services.local.checkpoint.architecture import CODEBOOKS
from training.cache import cache_folder
from training.config import CODEBOOK, CODEC_BOS, CODEC_EOS
from training.loop import Losses, Schedule, load, train
from training.options import parse_options, stage_parser
from training.speech.codes import CodedUtterance, read_codes
from training.speech.corpus import LEAD_FRAMES, sentences
from training.speech.fit_codec import codes_folder
from training.speech.talker import TinyTalker
from training.world.facts import draw_picture, draw_recording, draw_sum
from training.world.sentences import scene_question, sum_question
from training.world.tokenizer import HIDDEN
from training.world.words import words_of

SCHEDULE = Schedule(steps=5000, rate=1.5e-3, warmup=150, weight_decay=0.05, save_every_s=90)
BATCH = 16
LOUD_CODES = 4
"""Residual codes that are trained in all frames. Where one of them is wrong, another word is heard."""

FAINT_FRAMES = 32
"""Frames of a batch in which the other residual codes are trained, too; in all of them it would be most of the cost."""

BEGIN_WEIGHT = 3.0
"""Of a word's first code, which follows from the text alone; the others from the codes before, too."""

GUIDED = ((1, 0, 0), (1, 3, 1), (2, 0, 0), (2, 3, 1))
"""Layers and heads whose attention is drawn to the text token of the word being said (0), or of the next one (1)."""

GUIDED_WEIGHT = 0.2
LOUD_WEIGHT = 2.0
FAINT_WEIGHT = 0.5

SHORT_WORDS = 3
SHORT_WEIGHT = 3.0
"""How much more often an answer of up to SHORT_WORDS words is drawn: it says little, and must be clear at once."""

IGNORED = -100


def checkpoint() -> Path:
    return cache_folder("speech") / "talker.pt"


def draw_question(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.4:
        return sum_question(draw_sum(rng), rng)
    return scene_question(draw_picture(rng) if kind < 0.7 else draw_recording(rng), rng)


def spoil(codes: Tensor, rng: random.Random, other: Tensor) -> Tensor:
    """Return codes as a talker that errs might have drawn them: int64 [frames, 16]; other: frames to take from."""
    frames = len(codes)
    codes = codes.clone()
    strength = rng.random() ** 2 * 0.5
    is_late = torch.rand(frames) < strength * 0.3
    codes[1:][is_late[1:]] = codes[:-1][is_late[1:]]
    is_wrong = torch.rand(frames, 1) < strength * 0.5
    codes = torch.where(is_wrong, other[torch.randint(len(other), (frames,))], codes)
    is_random = torch.rand(codes.shape) < strength * 0.3
    return torch.where(is_random, torch.randint(CODEBOOK, codes.shape), codes)


def train_talker(
    said: Sequence[CodedUtterance],
    weights: Sequence[float],
    file: Path,
    schedule: Schedule,
    *,
    stop_after: int | None = None,
) -> TinyTalker:
    """Train on utterances, drawn by their weights, or go on with it."""
    model = TinyTalker()
    model.talker.model.config._attn_implementation = "eager"
    buckets = sorted(range(len(said)), key=lambda index: said[index].frames)
    all_codes = torch.cat([one.codes for one in said[:: max(1, len(said) // 200)]])

    def losses(step: int) -> Losses:
        rng = random.Random(step)
        # Utterances of like length: one drawn by its weight, the others from among its neighbours in length.
        middle = buckets.index(rng.choices(range(len(said)), weights)[0])
        near = buckets[max(0, middle - 100) : middle + 100]
        batch = [said[index] for index in rng.choices(near, [weights[index] for index in near], k=BATCH)]
        return _losses(model, batch, rng, all_codes)

    train("talker", file, model, schedule, losses, stop_after=stop_after)
    return model


def _losses(model: TinyTalker, batch: Sequence[CodedUtterance], rng: random.Random, other: Tensor) -> Losses:
    steps = max(one.frames for one in batch) + 1
    prompts = _prompts(model, [one.voice for one in batch], rng)
    spoken = model.text(torch.tensor([model.spoken(one.text, steps) for one in batch]))
    codes = torch.zeros(len(batch), steps, CODEBOOKS, dtype=torch.int64)
    fed = torch.zeros_like(codes)
    labels = torch.full((len(batch), steps), IGNORED)
    words = torch.full((len(batch), steps), IGNORED)
    for index, one in enumerate(batch):
        codes[index, : one.frames] = one.codes
        fed[index, 1 : one.frames + 1] = spoil(one.codes, rng, other)
        labels[index, : one.frames] = one.codes[:, 0]
        labels[index, one.frames] = CODEC_EOS
        words[index, : one.frames] = one.words
        words[index, one.frames] = one.words[-1] + 1
    first, rest = model.frames(fed)
    rest = rest * (torch.rand(len(batch), steps, 1) > 0.15 * rng.random())
    embeds = first + rest
    begin = model.codec(torch.tensor(CODEC_BOS)).expand(len(batch), 1, -1)
    answers = torch.cat((begin, embeds[:, 1:]), 1) + spoken
    longest = max(len(prompt) for prompt in prompts)
    rows = [
        functional.pad(torch.cat((prompt, answer)), (0, 0, 0, longest - len(prompt)))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    hidden, attentions = model.attended(torch.stack(rows))
    starts = torch.tensor([[len(prompt)] for prompt in prompts])
    is_said = labels != IGNORED
    row, step = is_said.nonzero(as_tuple=True)
    hidden = hidden[row, starts[row, 0] + step]
    logits, labels, words, codes = model.talker.codec_head(hidden), labels[is_said], words[is_said], codes[is_said]
    is_begin = step.eq(LEAD_FRAMES) | (step.gt(0) & words.ne(words.roll(1)))
    weights = torch.where(is_begin, BEGIN_WEIGHT, 1.0)
    told = (functional.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    is_frame = labels != CODEC_EOS
    loud, faint = _residual_losses(model, hidden[is_frame], codes[is_frame], rng)
    guided = torch.zeros(())
    for layer, head, ahead in GUIDED:
        # Text runs ahead of speech, so the word's token has come by then; the token after the last word's may not have.
        token = torch.minimum(words + ahead, step)
        weight = attentions[layer][row, head, starts[row, 0] + step, starts[row, 0] + token]
        guided = guided - (weight + 1e-6).log().mean() / len(GUIDED)
    with torch.no_grad():
        right = (logits.argmax(-1) == labels).float()
    return {
        "loss": told + LOUD_WEIGHT * loud + FAINT_WEIGHT * faint + GUIDED_WEIGHT * guided,
        "first": told.detach(),
        "right": right.mean(),
        "begins": right[is_begin].mean(),
        "guided": guided.detach(),
        "loud": loud.detach(),
        "faint": faint.detach(),
    }


def _residual_losses(model: TinyTalker, hidden: Tensor, codes: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Return the losses of the first residual codes and of the others: of [frames, hidden size] and [frames, 16]."""
    is_random = torch.rand(codes.shape) < 0.1 * rng.random()
    inputs = torch.where(is_random, torch.randint(CODEBOOK, codes.shape), codes)
    count = LOUD_CODES + 1
    loud = model.residual_logits(hidden, codes[:, :count], inputs[:, :count])
    some = torch.randperm(len(codes))[:FAINT_FRAMES]
    faint = model.residual_logits(hidden[some], codes[some], inputs[some])[:, LOUD_CODES:]
    return (
        functional.cross_entropy(loud.flatten(0, 1), codes[:, 1:count].flatten()),
        functional.cross_entropy(faint.flatten(0, 1), codes[some, count:].flatten()),
    )


def _prompts(model: TinyTalker, voices: Sequence[str], rng: random.Random) -> list[Tensor]:
    """Return a prompt for each voice. All of a batch have media or none, turns before or none: so little is padding."""
    has_media, has_before = rng.random() < 0.3, rng.random() < 0.2
    count = min(120, int(rng.expovariate(1 / 15)) + 1)
    prompts: list[Tensor] = []
    for voice in voices:
        media = torch.randn(count, HIDDEN) * 4 ** rng.uniform(-1, 1) if has_media else None
        turns = [model.user_turn(draw_question(rng) if rng.random() < 0.8 else "", media)]
        if has_before:
            turns.append(model.user_turn(draw_question(rng)))
        prompts.append(torch.cat((*turns, model.answer_start(voice))))
    return prompts


def load_talker() -> TinyTalker:
    model = TinyTalker()
    load(checkpoint(), model)
    return model


def main() -> None:
    parse_options(stage_parser(__doc__))
    drawn = sentences()
    coded = (one for shard in sorted(codes_folder().glob("*.npz")) for one in read_codes(shard))
    said = [one for one in coded if one.text in drawn]  # an older cache may have others
    weights = [drawn[one.text] * (SHORT_WEIGHT if len(words_of(one.text)) <= SHORT_WORDS else 1.0) for one in said]
    train_talker(said, weights, checkpoint(), SCHEDULE)


if __name__ == "__main__":
    main()
