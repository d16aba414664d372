"""A long recording, transcribed one piece after the other: each is a turn of its own, and their texts are joined."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from starlette.types import Send

from services.common.errors import AntiphonError, QuotaExceeded, RateLimited, TimedOut
from services.common.http.errors import error_object
from services.common.http.respond import send_error, send_start
from services.gateway.http.respond import FAILED
from services.gateway.http.streams import SSE_HEADERS, StreamForm, rename_messages, sse
from services.gateway.http.transcription.write import Transcript
from services.gateway.recordings.cutting import Recordings
from services.gateway.recordings.pieces import DiskPiece, Pieces
from services.gateway.turn.admission import Admission
from services.gateway.turn.events import TurnEvent
from services.gateway.turn.intent import Intent, Principal

# A limit on a minute lets the next piece through after a minute at most.
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Part:
    """What comes next: `text`, or the end of a piece at `transcribed_s`."""

    text: str
    transcribed_s: float = 0.0
    recording_s: float = 0.0


class PieceByPiece:
    def __init__(self, admission: Admission, recordings: Recordings) -> None:
        self._admission = admission
        self._recordings = recordings

    async def transcribe(
        self,
        principal: Principal,
        intent: Intent,
        transcript: Transcript,
        headers: dict[str, str],
        piece_s: float | None = None,
    ) -> AsyncGenerator[Part]:
        """Add the text of the intent's recording to `transcript`, and yield its parts as they come. The client has a
        part when the next one is asked for. `headers` gets the HTTP headers of the first piece's account before the
        first part or an error. `piece_s`: of a piece, at most; None = the operator's.

        Raise what a turn raises, and what cutting the recording raises.
        """
        until_s = None if intent.timeout_s is None else intent.arrived_s + intent.timeout_s
        async with self._recordings.cut(principal, intent, headers, piece_s) as pieces:
            index = 0
            while (piece := await pieces.get(index)) is not None and not transcript.is_at_limit:
                part = replace(intent, request_id=f"{intent.request_id}-{index}" if index else intent.request_id)
                if index:
                    part = replace(
                        part,
                        arrived_s=time.monotonic(),
                        timeout_s=_left_s(until_s),
                        is_served_in_drain=True,
                        keeps_key=True,
                    )
                texts = self._piece(principal, part, piece, pieces, transcript, is_first=not index)
                async with aclosing(texts) as parts:
                    async for one in parts:
                        yield one
                index += 1

    async def _piece(
        self,
        principal: Principal,
        intent: Intent,
        piece: DiskPiece,
        pieces: Pieces,
        transcript: Transcript,
        *,
        is_first: bool,
    ) -> AsyncGenerator[Part]:
        """Transcribe a piece. Where a limit has no room for a later one, wait for it."""
        inline = piece.media()
        try:
            while True:
                asked, opened = replace(intent, inline=inline), pieces.opened if is_first else None
                async with self._admission.admit(principal, asked, opened) as turn:
                    try:
                        while (events := await turn.events.take()) is not None:
                            if text := _text_of(events, transcript):
                                yield Part(text)
                            turn.sent(events)
                    except RateLimited as error:
                        if is_first or turn.billed or isinstance(error, QuotaExceeded):
                            raise
                        wait_s = min(error.retry_after_s or 1.0, _LONGEST_WAIT_S)
                    else:
                        turn.sent_all()
                        transcript.end_piece(piece.end_s)
                        yield Part("", piece.end_s, pieces.recording_s)
                        return
                await asyncio.sleep(wait_s)
        finally:
            await inline.close()


def _text_of(events: Sequence[TurnEvent], transcript: Transcript) -> str:
    return "".join(transcript.add(event) for event in events)


def _left_s(until_s: float | None) -> float | None:
    if until_s is None:
        return None
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimedOut("The deadline passed before the recording was transcribed. Send less, or allow more time.")
    return left_s


async def stream_parts(
    parts: AsyncGenerator[Part], transcript: Transcript, headers: Mapping[str, str], send: Send, keep_alive_s: float
) -> None:
    """Send the parts as they come, as `stream_turns` sends a turn's events: `transcript.text.delta` for text,
    `antiphon.progress` after each piece, and `transcript.text.done` with all of the text."""
    began = False
    try:
        while True:
            part = asyncio.ensure_future(anext(parts, None))
            try:
                while not (await asyncio.wait((part,), timeout=keep_alive_s))[0]:
                    began = began or await _begin(send, headers)
                    await send({"type": "http.response.body", "body": StreamForm.keep_alive, "more_body": True})
            finally:
                if not part.done():
                    part.cancel()
                    with suppress(asyncio.CancelledError):
                        await part
            if (one := part.result()) is None:
                break
            began = began or await _begin(send, headers)
            await send({"type": "http.response.body", "body": _event(one), "more_body": True})
        began = began or await _begin(send, headers)
        await send({"type": "http.response.body", "body": sse(_done(transcript))})
    except AntiphonError as error:
        rename_messages(error, "file")
        if not began:
            await send_error(send, error, billed=bool(transcript.text), headers=headers)
        else:
            await send({"type": "http.response.body", "body": sse(error_object(error)), FAILED: True})


async def _begin(send: Send, headers: Mapping[str, str]) -> bool:
    await send_start(send, 200, {**SSE_HEADERS, **headers})
    return True


def _event(part: Part) -> bytes:
    if part.text:
        return sse({"type": "transcript.text.delta", "delta": part.text})
    progress = {"transcribed_s": round(part.transcribed_s, 3), "recording_s": round(part.recording_s, 3)}
    return sse({"type": "antiphon.progress", **progress})


def _done(transcript: Transcript) -> dict[str, object]:
    return {"type": "transcript.text.done", **transcript.described()}
