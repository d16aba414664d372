"""How much memory requests may take, by what they name."""

from __future__ import annotations

import pytest

from services.preprocess.limits import MediaLimits
from services.preprocess.memory import FILE_COPIES, most_file_bytes, spare_bytes
from tests.preprocess.rig import Conversation
from tests.preprocess.samples import CAT


def test_a_request_without_media_needs_no_memory():
    text = Conversation().turn("user", "hello").start.messages
    assert most_file_bytes(text, MediaLimits(), 32_768, use_audio_in_video=False) == 0


def test_known_inline_files_leave_little_to_wait_for():
    talk = Conversation()
    talk.turn("user", talk.image(CAT))
    limits = MediaLimits()
    before, after = (
        most_file_bytes(talk.start.messages, limits, 32_768, use_audio_in_video=False, received=received)
        for received in (None, talk.inline)
    )
    assert before >= FILE_COPIES * limits.item_bytes
    assert after == 0


def test_the_default_budget_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.preprocess.memory.container_bytes", lambda: 12 << 30)
    assert spare_bytes(4 << 30) == int((6 << 30) / 1.2)
