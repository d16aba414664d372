"""LiveKit's agents in a room of their own: an AgentSession with a scripted microphone and loudspeaker."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from conversations import (
    KEY,
    LIVE_SCRIPT,
    LONG,
    MODEL,
    OSLO,
    PNG,
    SAMPLE_RATE,
    SCRIPT,
    URL,
    Microphone,
    heard_words,
    hold,
)
from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.llm import ChatMessage, ImageContent
from livekit.agents.voice import io
from livekit.plugins.openai.realtime import GPTLiveModel, RealtimeModel


class Recorded(io.AudioInput):
    def __init__(self, microphone: Microphone) -> None:
        super().__init__(label="script")
        self._frames = microphone.frames()

    async def __anext__(self) -> rtc.AudioFrame:
        pcm = await anext(self._frames)
        return rtc.AudioFrame(pcm, SAMPLE_RATE, 1, len(pcm) // 2)


class Loudspeaker(io.AudioOutput):
    """Plays at once, and takes the time that it takes."""

    def __init__(self) -> None:
        super().__init__(label="script", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=SAMPLE_RATE)
        self.started_at: float | None = None
        self.pushed_s = 0.0
        self.has_played = asyncio.Event()
        self._end: asyncio.TimerHandle | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if self.started_at is None:
            self.started_at, self.pushed_s = time.monotonic(), 0.0
            self.on_playback_started(created_at=time.time())
        self.pushed_s += frame.duration
        if self.pushed_s > 1:
            self.has_played.set()

    def flush(self) -> None:
        super().flush()
        if self.started_at is not None:
            left_s = self.started_at + self.pushed_s - time.monotonic()
            self._end = asyncio.get_running_loop().call_later(max(left_s, 0), self._finish, False)

    def clear_buffer(self) -> None:
        if self.started_at is not None:
            self._finish(True)

    def _finish(self, interrupted: bool) -> None:
        assert self.started_at is not None
        if self._end is not None:
            self._end.cancel()
        played_s = min(time.monotonic() - self.started_at, self.pushed_s) if interrupted else self.pushed_s
        self.started_at, self._end = None, None
        self.on_playback_finished(playback_position=played_s, interrupted=interrupted)


class Forecaster(Agent):
    def __init__(self) -> None:
        super().__init__(instructions=SCRIPT)
        self.cities: list[str] = []

    @function_tool
    async def weather(self, city: str) -> str:
        """The weather of a city."""
        self.cities.append(city)
        return "Rain."


class Talk:
    """A session, and what came of it."""

    def __init__(self, session: AgentSession[None]) -> None:
        self.session = session
        self.said: asyncio.Queue[ChatMessage] = asyncio.Queue()
        self.errors: list[Any] = []
        session.on("conversation_item_added", self._added)
        session.on("error", lambda event: self.errors.append(event.error))

    async def until(self, pattern: str) -> re.Match[str]:
        """Return what was said, without spaces: where an answer has a pause, it is more than one message."""
        text = ""
        while (match := re.search(pattern, text)) is None:
            text += ((await self.said.get()).text_content or "").replace(" ", "")
        return match

    def _added(self, event: Any) -> None:
        if isinstance(event.item, ChatMessage) and event.item.role == "assistant":
            self.said.put_nowait(event.item)


async def realtime() -> None:
    model = RealtimeModel(model=MODEL, voice="alloy", base_url=URL, api_key=KEY)
    microphone, loudspeaker, agent = Microphone(), Loudspeaker(), Forecaster()
    async with AgentSession[None](
        llm=model, vad=None, turn_handling={"turn_detection": None}, aec_warmup_duration=None
    ) as session:
        talk = Talk(session)
        session.input.audio, session.output.audio = Recorded(microphone), loudspeaker
        await session.start(agent)
        truncated: list[int] = []

        def look(event: Any) -> None:
            if event["type"] == "conversation.item.truncated":
                truncated.append(event["audio_end_ms"])

        agent.realtime_llm_session.on("openai_server_event_received", look)
        microphone.say()
        await loudspeaker.has_played.wait()
        microphone.say()
        cut = await talk.said.get()
        assert cut.interrupted
        heard = await talk.said.get()
        (audio_end_ms,) = truncated
        assert heard.text_content == heard_words(audio_end_ms), (heard.text_content, audio_end_ms)
        # A tool.
        session.generate_reply(user_input=OSLO)
        assert (await talk.said.get()).text_content == "It rains in Oslo."
        assert agent.cities == ["Oslo"]
        # An image.
        image = ImageContent(image=f"data:image/png;base64,{PNG}")
        context = agent.chat_ctx.copy()
        context.add_message(role="user", content=[image, "read -1"])
        await agent.update_chat_ctx(context)
        session.generate_reply()
        assert (await talk.said.get()).text_content == "<image>\nread -1"
        assert not talk.errors, talk.errors
    await model.aclose()


async def live() -> None:
    """Without images, which the Live API does not take. Functions are the application's (`delegation="client"`)."""
    model = GPTLiveModel(model=MODEL, voice="alloy", base_url=URL, api_key=KEY, delegation="client")
    microphone, loudspeaker = Microphone(), Loudspeaker()
    agent = Agent(instructions=LIVE_SCRIPT)
    async with AgentSession[None](llm=model, vad=None, aec_warmup_duration=None) as session:
        talk = Talk(session)
        session.input.audio, session.output.audio = Recorded(microphone), loudspeaker
        await session.start(agent)
        agent.duplex_session.on(
            "delegation_created",
            lambda task: agent.duplex_session.append_commentary("Rain.", delegation_id=task.id),
        )
        microphone.say()
        await loudspeaker.has_played.wait()
        microphone.say()
        cut, heard = (await talk.until(r"(w0.*)Iheard(w0.*)andnomore\.")).groups()
        assert cut.startswith(heard)
        assert len(cut) < len("".join(LONG))
        microphone.say()
        await talk.until(r"ItrainsinOslo\.")
        assert not talk.errors, talk.errors
    await model.aclose()


hold(globals())
