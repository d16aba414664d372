"""The error of a URL without a route: known APIs that are not served here are told from URLs that nobody has."""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.common.errors import NotFound
from services.gateway.http.operation import COMPATIBLE, Operation

_LONGEST_PATH = 200
# What OpenAI, vLLM and DashScope have at these paths, and below them.
_OTHERS = re.compile(
    r"(/compatible-mode)?/v1/"
    r"(assistants|audio|batches|chat/completions|chatkit|completions|containers|conversations|embeddings|evals|files"
    r"|fine_tuning|images|live|messages|moderations|organization|pooling|realtime|rerank|responses|score|skills|threads"
    r"|uploads|vector_stores|videos)(/.*)?"
    r"|/(detokenize|pooling|rerank|score|tokenize|v2/rerank)"
    r"|/api(-ws)?/v1/.+"
)

# POST on these is OpenAI's. They look like the id of a response, which takes other methods.
BESIDE_IDS = frozenset(
    f"{prefix}/v1/responses/{name}" for prefix in ("", COMPATIBLE) for name in ("compact", "input_tokens")
)


class Unserved:
    def __init__(self, served: Iterable[Operation]) -> None:
        names = [
            f"{'WebSocket' if each.web_socket else each.method} {each.shown_path}" for each in served if each.needs_key
        ]
        self._served = f"{', '.join(names[:-1])} and {names[-1]}"

    def __call__(self, method: str, path: str) -> NotFound:
        """Return the error, which says what is served."""
        shown = f"{method} {path[:_LONGEST_PATH]}"
        if _OTHERS.fullmatch(path):
            return NotFound(f"This server does not serve {shown}. It serves {self._served}.", code="url_not_served")
        return NotFound(f"There is no such URL ({shown}). This server serves {self._served}.", code="unknown_url")
