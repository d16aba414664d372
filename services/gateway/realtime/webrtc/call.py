"""One call: a peer connection that carries a session's messages, as a WebSocket does, and its audio in tracks."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from starlette.types import Message

from services.common.errors import BadInput, TooLarge
from services.gateway.realtime.openai.write import error_event
from services.gateway.realtime.webrtc.ice import CallIce
from services.gateway.realtime.webrtc.microphone import RATE, bound, samples_of
from services.gateway.realtime.webrtc.offer import Offer
from services.gateway.realtime.webrtc.speaker import Speaker
from services.gateway.turn.conversation import held_text_bytes

CHANNEL = "oai-events"
# Client events that wait; then the data channel does.
_WAITING_BYTES = 1 << 20
_WAITING_EVENTS = 64
_WAITING_AUDIO_BYTES = 2 * RATE * 2
# Server events that wait to be sent; then the session does.
_UNSENT_BYTES = 1 << 20
_LAST_WORDS_S = 2.0
_CLOSE_S = 5.0
# A client has one, and perhaps some that nothing reads.
_MOST_CHANNELS = 8
# SCTP lets a peer send more than the window that it was told. One that does is no client.
_OVER_WINDOW_BYTES = 1 << 18
_LOOK_S = 0.02

logger = logging.getLogger(__name__)


class Call:
    """`receive` and `send` are those of an ASGI WebSocket, but that binary messages are what the client says."""

    def __init__(self, ice: CallIce) -> None:
        self.speaker = Speaker()
        self.connected = asyncio.Event()
        """Once the client can hear and be told: its data channel is open, where it asked for one."""
        self.left = asyncio.Event()
        """Once the client is gone, or `hang_up` was called."""
        self._ice = ice
        self._is_begun = False
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._channel: RTCDataChannel | None = None
        self._has_events = False
        self._channels = 0
        self._events: deque[str | None] = deque()
        self._events_bytes = 0
        self._audio = bytearray()
        # Whether the last message was audio.
        self._has_heard = False
        self._arrived = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        ice.gate.is_busy = self._is_busy
        self._peer.on("connectionstatechange", self._on_state)
        self._peer.on("datachannel", self._on_channel)
        self._peer.on("track", self._on_track)

    async def answer(self, offer: Offer) -> str:
        """Return the SDP of the answer. Raise BadInput where the offer can't be answered."""
        peer, self._has_events = self._peer, offer.has_events
        self._ice.use(peer.addTrack(self.speaker).transport.transport)
        (transceiver,) = peer.getTransceivers()
        opus = [codec for codec in RTCRtpSender.getCapabilities("audio").codecs if codec.mimeType == "audio/opus"]
        transceiver.setCodecPreferences(opus)
        try:
            await peer.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
            await peer.setLocalDescription(await peer.createAnswer())
        except Exception as error:  # whatever its parser raises for what a client may send
            logger.info("an offer can't be answered: %r", error)
            raise BadInput(
                "Invalid 'sdp': the offer can't be answered. Offer one audio track with Opus, ICE and DTLS, as"
                " RTCPeerConnection does.",
                param="sdp",
                code="invalid_sdp",
            ) from None
        return peer.localDescription.sdp

    def hang_up(self) -> None:
        """Have the session end, as if the client had left."""
        self.left.set()
        self._arrived.set()

    async def close(self) -> None:
        """End the connection, after what was sent has left."""
        if self.connected.is_set() and not self.left.is_set():
            await self._flush()
        self.hang_up()
        self.speaker.stop()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._peer.close()
        except TimeoutError:
            logger.warning("a peer connection did not close")

    # As a WebSocket

    async def receive(self) -> Message:
        if not self._is_begun:
            self._is_begun = True
            return {"type": "websocket.connect"}
        while True:
            if self.left.is_set():
                return {"type": "websocket.disconnect"}
            if self._audio and not (self._events and self._has_heard):  # in turns: neither keeps the other waiting
                pcm, self._audio, self._has_heard = self._audio, bytearray(), True
                return {"type": "websocket.receive", "bytes": bytes(pcm)}
            if self._events:
                text, self._has_heard = self._events.popleft(), False
                self._events_bytes -= held_text_bytes(text or "")
                return {"type": "websocket.receive", "text": text}
            self._arrived.clear()
            await self._arrived.wait()

    async def send(self, message: Message) -> None:
        """Raise OSError where the client has left."""
        if message["type"] != "websocket.send" or (channel := self._channel) is None:
            return
        while channel.bufferedAmount > _UNSENT_BYTES:
            if self.left.is_set():
                raise ConnectionError("the client has left")
            await asyncio.sleep(_LOOK_S)
        if channel.readyState != "open":
            raise ConnectionError("the client has left")
        try:
            channel.send(message["text"])
        except ValueError:
            too_large = TooLarge("An event is larger than the client's data channel takes.", code="event_too_large")
            event = {"event_id": f"event_{secrets.token_hex(12)}", **error_event(too_large, None)}
            channel.send(json.dumps(event))

    # Of the peer

    def _on_state(self) -> None:
        state = self._peer.connectionState
        if state == "connected" and not self._has_events:
            self.connected.set()
        elif state in ("failed", "closed"):
            self.hang_up()

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channels += 1
        if self._channels > _MOST_CHANNELS:
            self.hang_up()
        if channel.label != CHANNEL or self._channel is not None:
            return  # nothing reads it, nor keeps what comes
        self._channel = channel
        channel.on("message", self._on_message)
        channel.on("close", self.hang_up)
        self.connected.set()

    def _on_message(self, data: str | bytes) -> None:
        text = data if isinstance(data, str) else None
        self._events.append(text)
        self._events_bytes += held_text_bytes(text or "")
        self._arrived.set()

    def _is_busy(self) -> bool:
        """Whether its data should wait. What a peer sends beyond its window would be kept until it makes a message."""
        sctp = self._peer.sctp
        if sctp is not None and sctp._advertised_rwnd < -_OVER_WINDOW_BYTES:  # pyright: ignore[reportPrivateUsage]
            self.hang_up()
        return len(self._events) >= _WAITING_EVENTS or self._events_bytes >= _WAITING_BYTES

    def _on_track(self, track: MediaStreamTrack) -> None:
        bound(track)
        self._listening = asyncio.create_task(self._listen(track), name="a call's microphone")

    async def _listen(self, track: MediaStreamTrack) -> None:
        async with aclosing(samples_of(track)) as heard:
            async for pcm in heard:
                if len(self._audio) < _WAITING_AUDIO_BYTES:
                    self._audio += pcm
                    self._arrived.set()

    async def _flush(self) -> None:
        """Wait until the client has what it was sent, or some seconds."""
        sctp = self._peer.sctp
        unsent: Callable[[], Any] = lambda: (  # noqa: E731
            sctp is not None and (sctp._data_channel_queue or sctp._outbound_queue or sctp._sent_queue)  # pyright: ignore[reportPrivateUsage]
        )
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                while unsent() and not self.left.is_set():  # noqa: ASYNC110  # aiortc tells nobody
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            pass
