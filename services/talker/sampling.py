"""How codes are drawn: fp32, on the device, in transformers' order, all streams at once, each by its own settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.common.errors import BadInput
from services.talker.fusion import highest
from services.talker.lanes import to_device

# The predictor's, which transformers fixes. Its temperature is 1 and it has no penalty.
PREDICTOR_TOP_K = 50
PREDICTOR_TOP_P = 0.8


@dataclass(frozen=True)
class SamplingParams:
    """The talker's; the defaults are those of transformers' `generate`. do_sample also rules the predictor.

    top_k 0 and top_p 1 are off. Raises BadInput, naming the field as in `talker.…`.
    """

    seed: int
    do_sample: bool = True
    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.05

    def __post_init__(self) -> None:
        checks = (
            (0 < self.temperature <= 10, "temperature", "must be above 0 and at most 10; do_sample=false is greedy"),
            (self.top_k >= 0, "top_k", "must be 0 (off) or more"),
            (0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1"),
            (0 < self.repetition_penalty <= 10, "repetition_penalty", "must be above 0 and at most 10"),
        )
        for is_right, name, rule in checks:
            if not is_right:
                raise BadInput(f"talker.{name} {rule}", param=f"talker.{name}")

    def candidates(self, vocabulary: int) -> int:
        """How many of the highest scores a draw can fall on. Greedy is a draw among one."""
        if not self.do_sample:
            return 1
        return min(self.top_k, vocabulary) if self.top_k else vocabulary


class CodeSampler:
    """The settings of each slot's request on the device, and the code 0s that it has drawn. Slot 0 is scratch."""

    def __init__(self, slots: int, suppressed: Tensor) -> None:
        """suppressed: bool [talker vocabulary], true for ids that are never drawn."""
        device, vocabulary = suppressed.device, len(suppressed)
        self._suppressed = suppressed
        self.seen = torch.zeros(slots + 1, vocabulary, dtype=torch.bool, device=device)
        # Of each slot: penalty, temperature, 1 − top_p. For the predictor 1 − top_p is one number.
        self._floats = torch.ones(slots + 1, 3, device=device)
        # Of each slot: how many candidates, in the talker and in the predictor.
        self._counts = torch.ones(slots + 1, 2, dtype=torch.int64, device=device)

    @property
    def kept(self) -> list[Tensor]:
        """All that changes."""
        return [self.seen, self._floats, self._counts]

    def start(self, slot: int, params: SamplingParams) -> None:
        """A new request in the slot."""
        sampled = params.do_sample
        temperature, top_p = (params.temperature, params.top_p) if sampled else (1.0, 1.0)
        device, count = self.seen.device, params.candidates(len(self._suppressed))
        self._floats[slot] = to_device([params.repetition_penalty, temperature, 1 - top_p], device)
        self._counts[slot] = to_device([count, PREDICTOR_TOP_K if sampled else 1], device)
        self.seen[slot] = False

    def mark(self, slot: int, codes: Tensor) -> None:
        """Code 0s [frames] that the request drew before."""
        self.seen[slot].index_fill_(0, codes, True)

    def draw_first(self, logits: Tensor, slots: Tensor, noise: Tensor, *, width: int) -> Tensor:
        """Code 0 of each stream's next frame: logits and noise [batch, vocabulary] → int64 [batch].

        width: the most candidates that any of these slots has.
        """
        penalty, temperature, tail = self._floats[slots].split(1, dim=1)
        scores = logits.float()
        seen = self.seen[slots]
        scores = torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        scores = scores.masked_fill(self._suppressed, -torch.inf) / temperature
        codes = draw(scores, noise, beyond(self._counts[slots, 0], width), tail)
        self.seen.index_put_((slots, codes), torch.ones_like(codes, dtype=torch.bool))
        return codes

    def residuals_beyond(self, slots: Tensor, width: int) -> Tensor:
        """`beyond` of each stream's residual codes."""
        return beyond(self._counts[slots, 1], width)


def beyond(counts: Tensor, width: int) -> Tensor:
    """Which of the `width` highest scores are none of a row's candidates: int64 [batch] → bool [batch, width]."""
    return torch.arange(width, device=counts.device) >= counts[:, None]


def draw(scores: Tensor, noise: Tensor, excluded: Tensor, tail: Tensor | float) -> Tensor:
    """One id a row: scores and noise float32 [batch, vocabulary] → int64 [batch].

    excluded bool [batch, width]: top-k of each row, as `beyond` gives it; tail: 1 − top_p, [batch, 1] or one for all.
    What transformers' warpers drop is dropped (of equal scores at the border, those beyond the count too).
    """
    values, ids = highest(scores, excluded.shape[1])
    kept = values.masked_fill(excluded, -torch.inf).softmax(-1)
    reached = kept.flip(-1).cumsum(-1).flip(-1)  # from the lowest up, as transformers adds
    race = (kept / noise.gather(-1, ids)).masked_fill(reached <= tail, -1.0)
    # Where rounding drops all, the first is taken, as argmax does among equals: transformers keeps it always.
    return ids.gather(-1, race.argmax(-1, keepdim=True))[:, 0]
