"""Stage "thinker": the language model learns to answer, with towers imagined (`--media imagined`) or real (`bank`).

One model learns both Instruct's answers and Thinking's: their prompts differ. Run as
`python -m training.mind.thinker --media imagined`, later `--media bank`, which begins with what the first one learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import load_balancing_loss_func

from services.local.checkpoint.kinds import Kind
from training.cache import cache_folder
from training.loop import Schedule
from training.mind.bank import BankSource
from training.mind.dialogues import Dialogue, draw_caption, draw_dialogue
from training.mind.imagined import ImaginedSource
from training.mind.model import new_thinker, tokenizer_and_ids
from training.mind.sequence import IGNORED, Example, sequence_of
from training.mind.stage import load_into, run_stage
from training.options import parse_options, stage_parser

POOL = 4
"""Batches that are drawn at once and sorted by length, so that little is padding."""

BALANCE = 0.02
DEFAULTS = {"thinker-imagined": (3000, 2e-3, 32), "thinker-bank": (4000, 1e-3, 16), "captioner": (300, 5e-4, 16)}
"""Steps, rate and batch."""

AnySource = ImaginedSource | BankSource


class Language(nn.Module):
    """The thinker's language model and head: all that this stage trains."""

    def __init__(self, thinker: Any) -> None:
        super().__init__()
        self.model = thinker.model
        self.lm_head = thinker.lm_head

    def forward(self, batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss over answers, the loss of balance, and the share of tokens that are guessed right."""
        _, ids_of = tokenizer_and_ids()
        length = max(map(len, batch))
        ids = torch.full((len(batch), length), ids_of["<|endoftext|>"])
        labels = torch.full((len(batch), length), IGNORED)
        mask = torch.zeros((len(batch), length), dtype=torch.long)
        positions = torch.zeros((3, len(batch), length))
        for row, one in enumerate(batch):
            ids[row, : len(one)], labels[row, : len(one)] = one.ids, one.labels
            mask[row, : len(one)], positions[:, row, : len(one)] = 1, one.positions
        is_audio = ids == ids_of["<|audio_pad|>"]
        is_visual = (ids == ids_of["<|image_pad|>"]) | (ids == ids_of["<|video_pad|>"])
        embeds = self.model.embed_tokens(ids)
        embeds = embeds.masked_scatter(is_audio[..., None], torch.cat([one.audio for one in batch]))
        embeds = embeds.masked_scatter(is_visual[..., None], torch.cat([one.visual for one in batch]))
        deep = torch.cat([one.deep for one in batch], 1)
        out = self.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            visual_pos_masks=is_visual,
            deepstack_visual_embeds=list(deep),
            use_cache=False,
            output_router_logits=True,
        )
        follows = labels[:, 1:] != IGNORED
        logits = self.lm_head(out.last_hidden_state[:, :-1][follows])
        wanted = labels[:, 1:][follows]
        experts = self.model.config
        balance = load_balancing_loss_func(out.router_logits, experts.num_experts, experts.num_experts_per_tok, mask)
        right = (logits.argmax(-1) == wanted).float().mean()
        # Each dialogue weighs the same: "Yes." has three tokens, what is seen and heard has twenty.
        weights = (follows / follows.sum(1, keepdim=True) / len(batch))[follows]
        loss = (functional.cross_entropy(logits, wanted, reduction="none") * weights).sum()
        return loss, torch.as_tensor(balance), right


def draw_sequence(source: AnySource, seed: str, thinker: Any, kinds: Sequence[Kind]) -> Example:
    """Draw one dialogue for one of the kinds, with its media's features."""
    rng = random.Random(seed)
    kind = rng.choice(kinds)
    draw = draw_caption if kind is Kind.CAPTIONER else draw_dialogue
    return build(draw(source, rng), source, kind, thinker, np.random.default_rng(rng.randrange(1 << 31)))


def build(dialogue: Dialogue, source: AnySource, kind: Kind, thinker: Any, rng: np.random.Generator) -> Example:
    found = {medium: source.features(medium, rng) for medium in dialogue.media}
    return sequence_of(dialogue, found, kind, thinker)


class Batches:
    """Batches by step: the same for a seed, however often training was stopped."""

    def __init__(self, source: AnySource, thinker: Any, kinds: Sequence[Kind], size: int, seed: str) -> None:
        self._source, self._thinker, self._kinds, self._size, self._seed = source, thinker, kinds, size, seed
        self._pool: list[list[Example]] = []
        self._pool_of = -1

    def __getitem__(self, step: int) -> list[Example]:
        pool, index = divmod(step, POOL)
        if pool != self._pool_of:
            seeds = [f"{self._seed} {pool} {number}" for number in range(self._size * POOL)]
            drawn = sorted((draw_sequence(self._source, one, self._thinker, self._kinds) for one in seeds), key=len)
            self._pool = [drawn[at : at + self._size] for at in range(0, len(drawn), self._size)]
            random.Random(pool).shuffle(self._pool)
            self._pool_of = pool
        return self._pool[index]


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--media", choices=("imagined", "bank"), required=True)
    options.add_argument("--captioner", action="store_true", help="from what the bank's stage learned")
    options.add_argument("--steps", type=int)
    options.add_argument("--batch", type=int)
    options.add_argument("--rate", type=float)
    given = parse_options(options)
    work, thinker = cache_folder("mind"), new_thinker(1)
    language = Language(thinker)
    source: AnySource = ImaginedSource() if given.media == "imagined" else BankSource(work)
    name = "captioner" if given.captioner else f"thinker-{given.media}"
    steps, rate, batch = DEFAULTS[name]
    before = {"thinker-bank": "thinker-imagined", "captioner": "thinker-bank"}.get(name)
    path = work / f"{name}.pt"
    if before and not path.exists():
        load_into(work / f"{before}.pt", {"language": language})
    kinds = (Kind.CAPTIONER,) if given.captioner else (Kind.INSTRUCT, Kind.INSTRUCT, Kind.THINKING)
    batches = Batches(source, thinker, kinds, given.batch or batch, name)
    checks = [draw_sequence(source, f"check {number}", thinker, kinds) for number in range(64)]

    def loss_of(step: int) -> dict[str, Tensor]:
        answers, balance, _ = language(batches[step])
        return {"answers": answers, "balance": balance * BALANCE}

    def check() -> str:
        with torch.inference_mode():
            loss, balance, right = language(checks)
        return f"loss {float(loss):.4f}, tokens right {float(right):.4f}, balance {float(balance):.3f}"

    schedule = Schedule(given.steps or steps, given.rate or rate, weight_decay=0.03)
    run_stage(path, {"language": language}, schedule, loss_of, check)


if __name__ == "__main__":
    main()
