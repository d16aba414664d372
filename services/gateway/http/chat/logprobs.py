"""Log probabilities in OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.gateway.turn.events import Logprob, TokenLogprobs

# JSON has no infinity. OpenAI's API gives this, too.
_LEAST = -9999.0


def logprobs_object(tokens: Iterable[TokenLogprobs]) -> dict[str, Any]:
    """Return a choice's `logprobs`: of each token, the end token included. A special token has its name.

    A token may be a part of a character: its `bytes` are exact, its `token` has U+FFFD in place of the part.
    """
    content = [{**_object(one.token), "top_logprobs": [_object(each) for each in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def _object(of: Logprob) -> dict[str, Any]:
    return {
        "token": of.text.decode(errors="replace"),
        "logprob": max(of.logprob, _LEAST),
        "bytes": list(of.text),
    }
