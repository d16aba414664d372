"""A client that converses, loses its gateway in mid-answer, and goes on at another one."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from bench.conversation.line import Event, Line, RefusedError, open_line
from bench.conversation_losses.plan import CUT, FIRST, LAST, STORY, Plan
from bench.metering.processes import ServiceProcess
from services.gateway.realtime.conversation import SAMPLE_RATE
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.talking import FRAME_MS, PCM

_FRAME_SAMPLES = FRAME_MS * SAMPLE_RATE // 1000
_SOUND = base64.b64encode(PCM).decode()


@dataclass
class SpokenResponse:
    """What a client has received of one answer."""

    item_id: str = ""
    pcm: bytearray = field(default_factory=bytearray)
    text: str = ""
    response: Event | None = None

    @property
    def frames(self) -> int:
        return len(self.pcm) // 2 // _FRAME_SAMPLES

    def add(self, event: Event) -> None:
        match event["type"]:
            case "response.output_item.added":
                self.item_id = event["item"]["id"]
            case "response.output_audio.delta":
                self.pcm += base64.b64decode(event["delta"])
            case "response.output_audio_transcript.delta":
                self.text += event["delta"]
            case "response.done":
                self.response = event["response"]
            case _:
                pass

    @property
    def is_whole(self) -> bool:
        """Whether it is as if nothing had happened, to the sample."""
        is_completed = self.response is not None and self.response["status"] == "completed"
        return is_completed and bytes(self.pcm) == STORY.pcm and self.text == STORY.text

    @property
    def ended(self) -> str:
        """How it ended, and with how much."""
        response = self.response or {"status": "unfinished", "status_details": None}
        error = (response["status_details"] or {}).get("error") or {}
        told = f"{response['status']} {error.get('code', '')}".strip()
        return f"{told}, {self.frames} frames, {len(self.text.split())} words"


@dataclass
class Conversation:
    """What has become of one. Times are of time.monotonic()."""

    plan: Plan
    # Held during the first answer: no other conversation loses a worker of the same stage meanwhile.
    losing: asyncio.Lock = field(default_factory=asyncio.Lock)
    has_first: asyncio.Event = field(default_factory=asyncio.Event)
    # Set once no conversation loses workers any more.
    may_be_cut: asyncio.Event = field(default_factory=asyncio.Event)
    session_id: str = ""
    expires_at: int = 0
    first: SpokenResponse = field(default_factory=SpokenResponse)
    cut: SpokenResponse = field(default_factory=SpokenResponse)
    last: SpokenResponse = field(default_factory=SpokenResponse)
    # Ids of the items before the one that was cut.
    item_ids: list[str] = field(default_factory=list[str])
    # The session as the other gateway had it, at its first event and after the last answer.
    resumed: Event = field(default_factory=dict[str, Any])
    after: Event = field(default_factory=dict[str, Any])
    # The item that was cut, as the other gateway has it.
    kept: Event = field(default_factory=dict[str, Any])
    read: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    lost_s: float = 0.0
    resumed_s: float = 0.0
    answered_s: float = 0.0
    error: str = ""

    @property
    def kept_text(self) -> str:
        content = self.kept.get("content") or [{}]
        return content[0].get("transcript") or ""

    @property
    def unkept_ms(self) -> int:
        """How much of the speech that was received is not in the item."""
        return max(self.cut.frames - len(self.kept_text.split()), 0) * FRAME_MS


async def converse(conversation: Conversation, dies: ServiceProcess, other: ServiceProcess, key: str) -> None:
    """Have the conversation. What goes wrong is its `error`."""
    try:
        async with open_line(dies.ports["http"], key, model=INSTRUCT.name) as line:
            await _until_lost(conversation, line)
        async with open_line(other.ports["http"], key, session_id=conversation.session_id) as line:
            await _go_on(conversation, line)
    except InvalidStatus as refused:
        body = (refused.response.body or b"").decode()
        conversation.error = f"refused with {refused.response.status_code}: {body}"
    except (RefusedError, ConnectionClosed, InvalidHandshake, OSError) as error:
        conversation.error = f"{type(error).__name__}: {error}"
    finally:
        conversation.has_first.set()
        conversation.plan.is_in_mid_answer.set()


async def _until_lost(conversation: Conversation, line: Line) -> None:
    plan = conversation.plan
    created = (await line.until("session.created"))["session"]
    conversation.session_id, conversation.expires_at = created["id"], created["expires_at"]
    given: Event = {"type": "realtime", "instructions": plan.instructions, "audio": {"input": {"turn_detection": None}}}
    await line.ask("session.update", "session.updated", session=given)
    await _say(conversation, line)
    async with conversation.losing:
        await _respond(line, plan.seed(FIRST), conversation.first)
    if not conversation.first.is_whole:
        raise RefusedError(f"the first answer is not whole, but {conversation.first.ended}")
    conversation.item_ids.append(conversation.first.item_id)
    conversation.has_first.set()
    await conversation.may_be_cut.wait()
    await _say(conversation, line)
    await line.send("response.create", response={"seed": plan.seed(CUT)})
    try:
        while conversation.cut.response is None:
            conversation.cut.add(await line.next())
            if conversation.cut.frames >= plan.heard:
                plan.is_in_mid_answer.set()
    except ConnectionClosed:
        conversation.lost_s = time.monotonic()
        if conversation.cut.frames < plan.heard:  # that was no kill
            raise
    else:
        raise RefusedError(f"the answer ended before its gateway did: {conversation.cut.ended}")


async def _go_on(conversation: Conversation, line: Line) -> None:
    conversation.resumed = (await line.until("session.created"))["session"]
    conversation.resumed_s = time.monotonic()
    for item_id in conversation.item_ids:
        await line.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=item_id)
    cut_id = conversation.cut.item_id
    conversation.kept = (await line.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=cut_id))[
        "item"
    ]
    await _say(conversation, line)
    await _respond(line, conversation.plan.seed(LAST), conversation.last)
    conversation.answered_s = time.monotonic()
    conversation.read = conversation.plan.read
    conversation.after = (await line.ask("session.update", "session.updated", session={"type": "realtime"}))["session"]


async def _say(conversation: Conversation, line: Line) -> None:
    await line.send("input_audio_buffer.append", audio=_SOUND)
    item = (await line.ask("input_audio_buffer.commit", "conversation.item.done"))["item"]
    conversation.item_ids.append(item["id"])


async def _respond(line: Line, seed: int, answer: SpokenResponse) -> None:
    await line.send("response.create", response={"seed": seed})
    while answer.response is None:
        answer.add(await line.next())
