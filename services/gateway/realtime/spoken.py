"""What of a spoken answer its listener heard: samples, and the text that belongs to them.

The talker reads a token of text with each frame of 80 ms, and takes some frames to say it. So it has read more than it
has said. A whole speech tells how long a token took: the same share of the text was said as of the samples. While the
speech is being made, the answers that were whole before it tell.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil

from services.gateway.turn.events import Speech, Text

USUAL_TOKEN_S = 0.28
"""How long a token takes to say: 160 words of English a minute, of 1.33 tokens each. It counts as _USUAL_TOKENS tokens
that were heard, so that two sentences of a voice outweigh it."""
_USUAL_TOKENS = 10
_WORD = re.compile(r"\s*\S+")
# Of a token: what a sum of floats may be off by.
_ROUNDING = 1e-6


@dataclass(slots=True)
class Spoken:
    """An answer's text, and how much of its speech was sent. Of the speech itself nothing is kept."""

    sample_rate: int
    # As it was asked for; "" = the model's default.
    voice: str = ""
    # How long a token takes to say, as far as is known before the speech is whole.
    token_s: float = USUAL_TOKEN_S
    text: str = ""
    # Samples that were sent.
    samples: int = 0
    # Whether all of the speech was sent.
    is_whole: bool = False
    # Samples that were heard of a speech that was interrupted, by the pacing clock; None = all that was sent.
    _heard: int | None = None
    # The text's length in characters after each event of text and each word in it, and the tokens until then that are
    # spoken.
    _chars: list[int] = field(default_factory=lambda: [0])
    _tokens: list[int] = field(default_factory=lambda: [0])
    # The last sample of each packet that was sent, and how many tokens of text the talker had read by then.
    _ends: list[int] = field(default_factory=list[int])
    _read: list[int] = field(default_factory=list[int])

    @property
    def sent_ms(self) -> int:
        return self.samples * 1000 // self.sample_rate

    @property
    def tokens(self) -> int:
        """The tokens of the text that are spoken."""
        return self._tokens[-1]

    @property
    def sent_text(self) -> str:
        """The text of the speech that was sent; all of it once the speech is whole."""
        return self.text[: self._chars[self._at(self.samples)]]

    @property
    def heard_text(self) -> str:
        """The text as far as it was heard: what the model reads."""
        return self.text if self._heard is None else self.text[: self._chars[self._at(self._heard)]]

    def text_before(self, unheard_s: float) -> str:
        """Return the text without that of the last seconds of what was sent, which the listener has yet to hear."""
        heard = self._samples_before(unheard_s)
        return self.text[: self._chars[self._at(heard if self._heard is None else min(heard, self._heard))]]

    def interrupt(self, unheard_s: float) -> None:
        """Note that the listener did not hear the last seconds of what was sent. The client's own word, `truncate`,
        replaces this."""
        self._heard = self._samples_before(unheard_s)

    def _samples_before(self, unheard_s: float) -> int:
        return max(self.samples - round(unheard_s * self.sample_rate), 0)

    def add_text(self, event: Text) -> None:
        before, tokens = len(self.text), self.tokens
        self.text += event.content_delta
        spoken = max(len(event.token_ids) - event.is_last, 0)  # the last one is never spoken
        # The engine may give several tokens at a time: they are spread over the words.
        words = [word.end() for word in _WORD.finditer(event.content_delta)][:-1] if spoken > 1 else []
        for number, end in enumerate(words, 1):
            self._chars.append(before + end)
            self._tokens.append(tokens + spoken * number // (len(words) + 1))
        self._chars.append(len(self.text))
        self._tokens.append(tokens + spoken)

    def add_speech(self, event: Speech) -> None:
        """Add a packet that was sent."""
        self.samples += len(event.pcm) // 2
        self._ends.append(self.samples)
        self._read.append(event.text_tokens)

    def truncate(self, audio_end_ms: int) -> None:
        """Forget what the listener did not hear: all after `audio_end_ms`, which is at most `sent_ms`."""
        self._heard = None
        if audio_end_ms >= self.sent_ms:
            # A speech that was cut has more text than was said.
            self._heard = None if self.is_whole else self.samples
            return
        heard = audio_end_ms * self.sample_rate // 1000
        at = self._at(heard)
        # A later truncation no longer knows how long the whole was.
        self.token_s, self.is_whole = self._token_s, False
        self.text, self.samples = self.text[: self._chars[at]], heard
        del self._chars[at + 1 :], self._tokens[at + 1 :]
        packets = bisect_left(self._ends, heard) + 1 if heard else 0
        del self._ends[packets:], self._read[packets:]
        if self._ends:
            self._ends[-1] = heard

    @property
    def _token_s(self) -> float:
        return self.samples / self.sample_rate / self.tokens if self.is_whole and self.tokens else self.token_s

    def _at(self, heard: int) -> int:
        """Return the place in `_chars` up to which the first `heard` samples went: at most as far as the talker had
        read."""
        if self.is_whole and heard >= self.samples:
            return len(self._chars) - 1
        read = self._read[bisect_left(self._ends, heard)] if heard else 0
        said = ceil(heard / self.sample_rate / self._token_s - _ROUNDING)
        return bisect_right(self._tokens, min(read, said)) - 1


def usual_token_s(answers: Iterable[Spoken], voice: str) -> float:
    """Return how long a token takes to say in this voice, in seconds: as long as in those of the answers that are
    whole."""
    seconds, tokens = _USUAL_TOKENS * USUAL_TOKEN_S, _USUAL_TOKENS
    for answer in answers:
        if answer.is_whole and answer.voice == voice:
            seconds += answer.samples / answer.sample_rate
            tokens += answer.tokens
    return seconds / tokens
