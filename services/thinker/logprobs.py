"""Log probabilities of an answer's tokens, from vLLM's form to protos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from vllm.logprobs import Logprob

from antiphon.v1 import thinker_pb2
from services.thinker.text import TokenBytes


def token_logprobs(
    token_ids: Sequence[int], places: Sequence[Mapping[int, Logprob] | None], table: TokenBytes, top: int
) -> list[thinker_pb2.TokenLogprobs]:
    """Return the log probability of each token and of the `top` likeliest at its place.

    `places` has a mapping for each token: the token's own, and the likeliest. Tokens that a grammar rules out, whose
    probability is 0, are left out.
    """

    def one(token: int, logprob: float) -> thinker_pb2.Logprob:
        return thinker_pb2.Logprob(token_id=token, logprob=logprob, text=table.shown(token))

    found: list[thinker_pb2.TokenLogprobs] = []
    for token, place in zip(token_ids, places, strict=True):
        values = {each: logprob.logprob for each, logprob in (place or {}).items()}
        likeliest = sorted((each for each in values if isfinite(values[each])), key=lambda each: -values[each])[:top]
        found.append(
            thinker_pb2.TokenLogprobs(
                token=one(token, values[token]), top=[one(each, values[each]) for each in likeliest]
            )
        )
    return found
