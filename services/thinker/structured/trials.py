"""Tries clients' grammars before the engine gets them; see trial.py. Off the event loop, and each grammar once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.utils import grammar_is_likely_lark

from services.common.errors import BadInput, Unavailable

_KNOWN_GRAMMARS = 1024
_FINE, _REFUSED = "fine", "refused"

logger = logging.getLogger(__name__)


class StructureTrials:
    """One process for all grammars of a thinker. It starts with the first one, which takes some seconds."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        # Digests of grammars that compile.
        self._fine: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, params: StructuredOutputsParams, path: str) -> None:
        """Raise BadInput, naming `path`, where the grammar is wrong or too complex; Unavailable where the process dies
        again and again."""
        asked = _question(params)
        if asked is None:
            return
        digest = hashlib.sha256(asked).digest()
        if digest in self._fine:
            self._fine.move_to_end(digest)
            return
        async with self._turn:
            answer = await self._ask(asked) or await self._ask(asked)
        if answer == _FINE:
            self._fine[digest] = None
            if len(self._fine) > _KNOWN_GRAMMARS:
                self._fine.popitem(last=False)
        elif answer == _REFUSED:
            raise BadInput(f"Invalid '{path}': it cannot be made into a grammar.", param=path)
        elif answer:
            raise BadInput(
                f"Invalid '{path}': its grammar is too complex. Send fewer repetitions and alternatives.",
                param=path,
                code="structure_too_complex",
            )
        else:
            raise Unavailable("The structure could not be checked. Send the request again.", retry_after_s=1)

    async def _ask(self, question: bytes) -> str:
        """Return the process's answer; "" = it died."""
        if self._process is None:
            command = (sys.executable, "-m", "services.thinker.structured.trial")
            self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        process = self._process
        assert process.stdin is not None  # noqa: S101  # both are pipes
        assert process.stdout is not None  # noqa: S101
        answered = False
        try:
            process.stdin.write(question)
            await process.stdin.drain()
            answer = (await process.stdout.readline()).decode().strip()
            answered = bool(answer)
        except ConnectionError:
            answer = ""
        finally:
            if not answered:  # or cancelled: the next one must not get this one's answer
                await self.close()
        if not answered:
            logger.warning("the process that tries grammars died")
        return answer

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


@asynccontextmanager
async def structure_trials() -> AsyncGenerator[StructureTrials]:
    trials = StructureTrials()
    try:
        yield trials
    finally:
        await trials.close()


def _question(params: StructuredOutputsParams) -> bytes | None:
    """Return a request of trial.py; None = nothing can be wrong."""
    if params.structural_tag is not None:
        form, text = "structural_tag", params.structural_tag
    elif params.regex is not None:
        form, text = "regex", params.regex
    elif params.grammar is not None:
        form, text = ("lark" if grammar_is_likely_lark(params.grammar) else "ebnf"), params.grammar
    else:
        return None
    return json.dumps({form: text}).encode() + b"\n"
