"""Sampling of codes: fp32, on the device, in transformers' order, for all streams at once, each with its own
parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.common.errors import BadInput
from services.talker.cuda_stream import to_device
from services.talker.fusion import topk
from services.talker.noise import noise_at

# The predictor's parameters, which transformers fixes. Its temperature is 1 and it has no penalty.
PREDICTOR_TOP_K = 50
PREDICTOR_TOP_P = 0.8
TIES = 14
"""So many scores that are equal to the last of the top-k are kept with them; bfloat16 leaves one or two on average."""


@dataclass(frozen=True)
class SamplingParams:
    """The talker's sampling parameters, with the defaults of transformers' `generate`. do_sample applies to the
    predictor too.

    top_k 0 and top_p 1 are off. Raises BadInput, which names the field as `talker.…`.
    """

    seed: int
    do_sample: bool = True
    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.05

    def __post_init__(self) -> None:
        checks = (
            (
                0 < self.temperature <= 10,
                "temperature",
                "must be above 0 and at most 10; for greedy decoding set do_sample=false",
            ),
            (self.top_k >= 0, "top_k", "must be 0 (off) or more"),
            (0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1"),
            (0 < self.repetition_penalty <= 10, "repetition_penalty", "must be above 0 and at most 10"),
        )
        for is_right, name, rule in checks:
            if not is_right:
                raise BadInput(f"talker.{name} {rule}", param=f"talker.{name}")

    def candidates(self, vocabulary: int) -> int:
        """Return the top-k that applies, at most the vocabulary. Greedy is a draw from the highest scores alone."""
        if not self.do_sample:
            return 1
        return min(self.top_k, vocabulary) if self.top_k else vocabulary


class CodeSampler:
    """Each slot's sampling parameters and the code 0s that it drew, on the device. Slot 0 is scratch."""

    def __init__(self, slots: int, suppressed: Tensor) -> None:
        """suppressed: bool [talker vocabulary], true for ids that are never drawn."""
        device, vocabulary = suppressed.device, len(suppressed)
        self._suppressed = suppressed
        self.penalty_mask = torch.zeros(slots + 1, vocabulary, dtype=torch.bool, device=device)
        # Of each slot: penalty, temperature, 1 − top_p. For the predictor 1 − top_p is one number.
        self._floats = torch.ones(slots + 1, 3, device=device)
        # Of each slot: the rank of the last score that top-k keeps, from 0. For the predictor it is one number.
        self._last_ranks = torch.zeros(slots + 1, 1, dtype=torch.int64, device=device)

    @property
    def state(self) -> list[Tensor]:
        """All tensors that change."""
        return [self.penalty_mask, self._floats, self._last_ranks]

    def start(self, slot: int, params: SamplingParams) -> None:
        """Begin a new request in the slot."""
        sampled = params.do_sample
        temperature, top_p = (params.temperature, params.top_p) if sampled else (1.0, 1.0)
        device, count = self.penalty_mask.device, params.candidates(len(self._suppressed))
        self._floats[slot] = to_device([params.repetition_penalty, temperature, 1 - top_p], device)
        self._last_ranks[slot] = to_device([count - 1], device)
        self.penalty_mask[slot] = False

    def mark(self, slot: int, codes: Tensor) -> None:
        """Add code 0s [frames], drawn earlier, to the request's penalty mask."""
        self.penalty_mask[slot].index_fill_(0, codes, True)

    def draw_first(self, logits: Tensor, slots: Tensor, noise: Tensor, *, width: int) -> Tensor:
        """Draw code 0 of each stream's next frame: logits [batch, vocabulary], noise as `noise_at` takes it → int64
        [batch].

        width: how many of the highest scores to look at: the largest top-k of these slots, and room for ties.
        """
        penalty, temperature, one_minus_top_p = self._floats[slots].split(1, dim=1)
        scores = logits.float()
        penalty_mask = self.penalty_mask[slots]
        scores = torch.where(penalty_mask, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        scores = scores.masked_fill(self._suppressed, -torch.inf) / temperature
        codes = draw(scores, noise, self._last_ranks[slots], one_minus_top_p, width=width)
        self.penalty_mask.index_put_((slots, codes), torch.ones_like(codes, dtype=torch.bool))
        return codes


def draw(
    scores: Tensor, noise: Tensor, last_rank: Tensor | int, one_minus_top_p: Tensor | float, *, width: int
) -> Tensor:
    """Draw one id for each stream: scores float32 [batch, vocabulary], noise as `noise_at` takes it → int64 [batch].

    last_rank: the rank of the last score that top-k keeps, from 0; it and one_minus_top_p are [batch, 1], or one number
    for all. Drops what transformers' warpers drop, and keeps what they keep: all scores equal to the last of the top-k
    too, among the `width` highest. A greedy request draws the highest score, as its noise is 1.
    """
    values, ids = topk(scores, width)
    lowest = values.gather(-1, last_rank) if isinstance(last_rank, Tensor) else values.narrow(-1, last_rank, 1)
    probs = values.masked_fill(values < lowest, -torch.inf).softmax(-1)
    reached = probs.flip(-1).cumsum(-1).flip(-1)  # from the lowest up, as transformers adds
    race = (probs / noise_at(noise, ids)).masked_fill(reached <= one_minus_top_p, -1.0)
    # If rounding drops all, argmax takes the first, which transformers always keeps.
    return ids.gather(-1, race.argmax(-1, keepdim=True)).squeeze(-1)
