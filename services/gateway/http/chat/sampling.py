"""The fields that say how a text is sampled, for every request that has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Tag

from services.gateway.http.chat.messages import Either
from services.gateway.http.chat.parts import Strict
from services.gateway.limits import MAX_STOPS
from services.gateway.turn.intent import Sampling

# As good as 0, which vLLM refuses: the most probable token alone is left.
_LEAST_TOP_P = 1e-6

RepetitionPenalty = Annotated[float, Field(gt=0, le=10)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class SamplingFields(Strict):
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    # 0 leaves the most probable token alone.
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    # Both -1 and 0 mean off, as in vLLM.
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    stop: (
        Annotated[
            Annotated[Stop, Tag("text")]
            | Annotated[list[Stop], Field(fail_fast=True, max_length=MAX_STOPS), Tag("list")],
            Either,
        ]
        | None
    ) = None

    @property
    def sampling(self) -> Sampling:
        """The thinker's sampling. What the client left out stays absent: the model's default applies."""
        return Sampling(
            temperature=self.temperature,
            top_p=max(self.top_p, _LEAST_TOP_P) if self.top_p is not None else None,
            top_k=max(self.top_k, 0) if self.top_k is not None else None,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or (),
        )
