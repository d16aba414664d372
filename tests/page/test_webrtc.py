"""A call by a browser's own RTCPeerConnection, as OpenAI's documents have it: its microphone says "hello". It goes to
the gateway, or through a relay alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aioice.ice import get_host_addresses

from tests.fixtures.relay import PASSWORD, USERNAME, running_relay
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.webrtc.calling import LoudStory
from tests.page.conftest import Open

pytestmark = pytest.mark.page

STORY = LoudStory(words=8, frames=20)
HELLO = silence(1000) + said("hello") + silence(5000)
CALL = """async (configuration) => {
  const peer = (window.peer = new RTCPeerConnection(configuration));
  window.events = [];
  const audio = document.createElement("audio");
  audio.autoplay = true;
  peer.ontrack = (event) => (audio.srcObject = event.streams[0]);
  peer.addTrack((await navigator.mediaDevices.getUserMedia({ audio: true })).getTracks()[0]);
  const channel = peer.createDataChannel("oai-events");
  channel.onmessage = (event) => window.events.push(JSON.parse(event.data));
  await peer.setLocalDescription();
  if (configuration.iceServers)
    while (peer.iceGatheringState !== "complete") await new Promise((done) => setTimeout(done, 20));
  const answer = await fetch("/v1/realtime/calls", {
    method: "POST", body: peer.localDescription.sdp, headers: { "Content-Type": "application/sdp" },
  });
  if (answer.status !== 201) throw new Error(await answer.text());
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  return answer.headers.get("location");
}"""
HEARD = """async () => {
  const stats = [...(await window.peer.getStats()).values()];
  return stats.find((each) => each.type === "inbound-rtp")?.totalAudioEnergy ?? 0;
}"""


LOCAL_CANDIDATES = """async () => {
  const stats = [...(await window.peer.getStats()).values()];
  return stats.filter((each) => each.type === "local-candidate").map((each) => each.candidateType);
}"""


async def call_and_hear(open_world: Open, configuration: dict[str, Any]) -> list[str]:
    """Hold a call. Return the types of the browser's candidates."""
    async with open_world(STORY, HELLO, webrtc=True, webrtc_port=0) as world, world.page() as page:
        location = await page.evaluate(CALL, configuration)
        assert location.startswith("/v1/realtime/calls/rtc_")

        async def has(kind: str) -> bool:
            return kind in [event["type"] for event in json.loads(await page.evaluate("JSON.stringify(events)"))]

        for kind in (
            "session.created",
            "input_audio_buffer.speech_started",
            "output_audio_buffer.started",
            "response.done",
            "output_audio_buffer.stopped",
        ):
            await wait_until(lambda kind=kind: has(kind))
        assert not await has("response.output_audio.delta")

        async def is_heard() -> bool:
            return await page.evaluate(HEARD) > 0.01

        await wait_until(is_heard)
        candidates = await page.evaluate(LOCAL_CANDIDATES)
        await page.evaluate("peer.close()")
        await wait_until(lambda: not world.stages.gateway.gateway.sessions.count)
    return candidates


async def test_a_browser_calls_and_hears_the_answer(open_world: Open) -> None:
    assert "host" in await call_and_hear(open_world, {})


async def test_a_browser_calls_through_its_relay_alone(open_world: Open, tmp_path: Path) -> None:
    (host, *_) = get_host_addresses(use_ipv4=True, use_ipv6=False)  # a browser uses no loopback
    async with running_relay(tmp_path, host) as relay:
        server = {"urls": f"turn:{relay.address}", "username": USERNAME, "credential": PASSWORD}
        through = {"iceServers": [server], "iceTransportPolicy": "relay"}
        assert set(await call_and_hear(open_world, through)) == {"relay"}
        assert relay.allocations
