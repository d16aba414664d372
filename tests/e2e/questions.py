"""Questions for stacks of two workers a stage, and their undisturbed answers, which are asked for once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import openai

from tests.e2e.asking import SEEDED, SPEECH, Asked, Heard, check_same
from tests.e2e.media import audio_part, image_part, text_part, tone_wav
from tests.fixtures.stack import Stack

# Requests with one key go to one worker of each stage, so that one loss is a loss for all of them.
_TOGETHER = {"prompt_cache_key": "together"}


@dataclass
class Client:
    """Asks questions by their names: a kind, and after a colon what makes it a question that no cache knows."""

    client: openai.AsyncOpenAI
    stack: Stack
    undisturbed: dict[str, Heard] = field(default_factory=dict[str, Heard])

    def ask(self, name: str) -> Asked:
        max_tokens, options = _question(name)
        return Asked(self.client, self.stack, max_tokens, **_TOGETHER, **options)

    async def check(self, asked: Sequence[Asked], names: Sequence[str]) -> None:
        """Wait for the answers, and compare each with the question's undisturbed answer."""
        for one in asked:
            await one.whole()
        new = {name: self.ask(name) for name in names if name not in self.undisturbed}
        for name, one in new.items():
            self.undisturbed[name] = await one.whole()
        await check_same(asked, [self.undisturbed[name] for name in names])


def _question(name: str) -> tuple[int, dict[str, Any]]:
    """Return the most tokens and the options."""
    kind, _, new = name.partition(": ")
    match kind:
        case "seeded text":
            return 500, SEEDED
        case "long prompt":
            return 100, _user(text_part(new + " All work and no play makes Jack a dull boy." * 300))
        case "media":
            return 500, _media(new)
        case "long text":
            return 1200, {}
        case "short speech":
            return 40, SPEECH | SEEDED | _user(text_part(new))
        case "long speech":
            # The tiny talker ends soon after its text.
            return 800, SPEECH | {"talker": {"seed": 5, "max_frames": 900}}
        case "speech of media":
            # So few tokens that the gateway takes them all before the speech begins.
            return 40, SPEECH | SEEDED | _media(new)
        case _:
            raise ValueError(name)


def _media(new: str) -> dict[str, Any]:
    tone = tone_wav(1.5 + crc32(new.encode()) % 1000 / 1000)
    return _user(image_part(), audio_part(tone), text_part("What is it?"))


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}
