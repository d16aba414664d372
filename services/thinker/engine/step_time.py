"""How long an engine's step may take, from one that was measured."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# A measured step may have had the machine for itself.
_MARGIN = 2.0
# The vision encoder computes four patches for each token of a picture (its spatial_merge_size, squared).
_PATCHES_A_TOKEN = 4


@dataclass(eq=False, slots=True)
class Sequence:
    """A request in the engine: its tokens, which may all have to be computed again where it is preempted, and what the
    vision encoder computes of its pictures beside them."""

    tokens: int
    patches: int

    @property
    def context(self) -> int:
        return self.tokens + self.patches


class StepTime:
    """Bounds the next step by the requests in the engine.

    A step computes n tokens and patches, of contexts of at most c. Its time grows with n, and that of attention with
    n × c. So from a prefill of m tokens that took t, it takes at most t × n/m × c/m, where n and c are at least m.
    """

    def __init__(self, max_batched_tokens: int) -> None:
        self._max_batched_tokens = max_batched_tokens
        self._measured_tokens = 1
        self._measured_s = 0.0
        self._sequences: set[Sequence] = set()
        # Requests that ended: a step with them may still run.
        self._ended: set[Sequence] = set()

    def measure(self, tokens: int, seconds: float) -> None:
        """Take the time of a step that prefilled one prompt of `tokens` tokens, none of them cached."""
        self._measured_tokens, self._measured_s = tokens, seconds

    @property
    def longest_s(self) -> float:
        """How long a step with these requests may take; 0 where nothing was measured."""
        sequences, most = self._sequences | self._ended, self._max_batched_tokens
        computed = min(sum(each.tokens for each in sequences), most)
        computed += min(sum(each.patches for each in sequences), most * _PATCHES_A_TOKEN)
        context = max((each.context for each in sequences), default=0)
        growth = max(computed / self._measured_tokens, 1) * max(context / self._measured_tokens, 1)
        return _MARGIN * self._measured_s * growth

    @contextmanager
    def sequence(self, prompt: Mapping[str, Any]) -> Generator[Sequence]:
        """Count a request while the block runs, and until `between_steps` finds that no step has it."""
        sequence = Sequence(len(prompt["prompt_token_ids"]), patches(prompt))
        self._sequences.add(sequence)
        try:
            yield sequence
        finally:
            self._sequences.remove(sequence)
            self._ended.add(sequence)

    @contextmanager
    def between_steps(self) -> Generator[None]:
        """Forget, after the block, the requests that had ended before it: the engine comes by in the block."""
        ended = set(self._ended)
        yield
        self._ended -= ended


def patches(prompt: Mapping[str, Any]) -> int:
    """Return the patches of the pictures in an engine's input."""
    places = prompt.get("mm_placeholders", {})
    return _PATCHES_A_TOKEN * sum(place.length for kind in ("image", "video") for place in places.get(kind, ()))
