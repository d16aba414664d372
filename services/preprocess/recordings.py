"""Long recordings: a file comes in, its pieces go out. Nothing holds the whole sound."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from services.common.errors import BadInput, TooLarge
from services.common.memory_budget import Hold
from services.preprocess.decoding.jobs import Job
from services.preprocess.decoding.pool import DecodePool, Piece
from services.preprocess.limits import MediaLimits
from services.preprocess.media.pieces import LEAST_PIECE_S
from services.preprocess.media.problems import MediaProblem
from services.preprocess.memory import AUDIO_TOKENS_PER_S, FILE_COPIES, StageBudgets

# A piece may fill this part of the prompt: its task and its text need room, too.
_PROMPT_PART = 0.5


class Recording:
    """One recording's file as it arrives. `param` names it in errors."""

    def __init__(self, memory: Hold, limits: MediaLimits, param: str) -> None:
        self.data = bytearray()
        self._memory = memory
        self._limits = limits
        self._param = param

    async def add(self, chunk: bytes) -> None:
        """Add a chunk, once there is memory for it. Raise TooLarge."""
        most = self._limits.item_bytes
        if len(self.data) + len(chunk) > most:
            raise TooLarge(f"The file has more than {most} bytes. Send a smaller one.", param=self._param)
        await self._memory.grow(FILE_COPIES * len(chunk))
        self.data += chunk


class Recordings:
    """Cuts recordings. One for a process, on one event loop."""

    def __init__(
        self, decoders: DecodePool, limits: MediaLimits, budgets: StageBudgets, *, decode_cpu_s: float
    ) -> None:
        self._decoders = decoders
        self._limits = limits
        self._budgets = budgets
        self._decode_cpu_s = decode_cpu_s

    @asynccontextmanager
    async def receive(self, tenant: str, param: str) -> AsyncGenerator[Recording]:
        """Hold the memory of a file, which comes within the block and is over at its end."""
        most = FILE_COPIES * self._limits.item_bytes
        taking = self._budgets.files.take(0, what="The recording", tenant=tenant, most_bytes=most, param=param)
        async with taking as memory:
            yield Recording(memory, self._limits, param)

    async def pieces(
        self, recording: Recording, *, tenant: str, request_id: str, param: str, piece_s: float
    ) -> AsyncGenerator[Piece]:
        """Yield the pieces, the next one once it is asked for. Each is at most `piece_s` long, and no longer than one
        sound of a prompt may be here. Raise BadInput or TooLarge, and Unavailable."""
        fitting_s = self._limits.item_tokens * _PROMPT_PART / AUDIO_TOKENS_PER_S
        piece_s = max(min(piece_s, self._limits.audio_s, fitting_s), LEAST_PIECE_S)
        if not recording.data:
            raise BadInput("The file is empty.", param=param, code="empty_media")
        job = Job(
            "recording",
            (recording.data,),
            self._limits,
            cpu_s=self._decode_cpu_s,
            tenant=tenant,
            owner=f"{tenant}/{request_id}",
            piece_s=piece_s,
        )
        try:
            async with aclosing(self._decoders.cut(job)) as pieces:
                async for piece in pieces:
                    yield piece
        except MediaProblem as problem:
            raise BadInput(problem.message, code=problem.code, param=param) from None
