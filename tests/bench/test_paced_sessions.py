"""How late a packet is follows from when its talker sent it, and from what its client has left to play."""

from __future__ import annotations

import base64

import pytest

from bench.gateway.stages import FRAMES_PER_S, SAMPLES_PER_FRAME, SENT_AT
from bench.paced_sessions import Answer, Packets

LEAD_S = 1.0
SECONDS = 0.32
"""Of a packet."""


def packet(sent_s: float, due_s: float = 0.0) -> str:
    samples = bytes(round(2 * SAMPLES_PER_FRAME * FRAMES_PER_S * SECONDS) - SENT_AT.size)
    return base64.b64encode(SENT_AT.pack(sent_s, due_s) + samples).decode()


def heard(*packets: tuple[float, float]) -> Packets:
    """Return what is found of an answer's packets: when each was sent, and when it came."""
    found = Packets()
    answer = Answer(found, LEAD_S)
    for sent_s, came_s in packets:
        answer.note(packet(sent_s), came_s)
    return found


def test_what_is_not_held_back_is_due_when_it_was_sent() -> None:
    found = heard((10.0, 10.005), (10.1, 10.125))
    assert found.late_s == pytest.approx([0.005, 0.025])
    assert found.dry == [False, False]


def test_what_is_held_back_is_due_a_lead_before_it_is_played() -> None:
    """Four packets are 1.28 s: the fifth is played 1.28 s after the first, and due 0.28 s after it."""
    found = heard(*((10.0, 10.0),) * 4, (10.0, 10.29))
    assert found.late_s[-1] == pytest.approx(0.01)


def test_a_client_that_waits_for_a_packet_plays_on_with_it() -> None:
    found = heard((10.0, 10.0), (10.0, 10.5), (10.0, 10.6))
    assert found.dry == [False, True, False]
