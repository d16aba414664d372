"""What of a spoken answer its listener heard: samples, and the text that belongs to them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from services.gateway.turn.events import Speech, Text


@dataclass(slots=True)
class Spoken:
    """An answer's text, and how much of its speech was sent. Of the speech itself nothing is kept."""

    sample_rate: int
    text: str = ""
    # Samples that were sent.
    samples: int = 0
    # Whether all of the speech was sent.
    is_whole: bool = False
    # Samples that were heard of a speech that was interrupted, by the pacing clock; None = all that was sent.
    _heard: int | None = None
    # The text's length in characters after each event of text, and the tokens until then.
    _chars: list[int] = field(default_factory=lambda: [0])
    _tokens: list[int] = field(default_factory=lambda: [0])
    # The last sample of each packet that was sent, and how many tokens of text the talker had read by then.
    _ends: list[int] = field(default_factory=list[int])
    _read: list[int] = field(default_factory=list[int])

    @property
    def sent_ms(self) -> int:
        return self.samples * 1000 // self.sample_rate

    @property
    def sent_text(self) -> str:
        """The text as far as the talker had read it at the last packet that was sent; all of it once the speech is
        whole."""
        if self.is_whole or not self._read:
            return self.text if self.is_whole else ""
        return self.text[: self._chars[bisect_right(self._tokens, self._read[-1]) - 1]]

    @property
    def heard_text(self) -> str:
        """The text as far as it was heard: what the model reads."""
        return self.text if self._heard is None else self.text[: self._chars[self._at(self._heard)]]

    def interrupt(self, unheard_s: float) -> None:
        """Note that the listener did not hear the last seconds of what was sent. The client's own word, `truncate`,
        replaces this."""
        self._heard = max(self.samples - round(unheard_s * self.sample_rate), 0)

    def add_text(self, event: Text) -> None:
        self.text += event.content_delta
        self._chars.append(len(self.text))
        self._tokens.append(self._tokens[-1] + len(event.token_ids))

    def add_speech(self, event: Speech) -> None:
        """Add a packet that was sent."""
        self.samples += len(event.pcm) // 2
        self._ends.append(self.samples)
        self._read.append(event.text_tokens)

    def truncate(self, audio_end_ms: int) -> None:
        """Forget what the listener did not hear: all after `audio_end_ms`, which is at most `sent_ms`.

        The talker reads text ahead of what it says. So what it had read is an upper bound; where the whole speech is
        known, so is the same share of the text as of the samples.
        """
        was_interrupted, self._heard = self._heard is not None, None
        if audio_end_ms >= self.sent_ms:
            # An interrupted speech has more text than was said.
            self._heard = self.samples if was_interrupted else None
            return
        heard = audio_end_ms * self.sample_rate // 1000
        at = self._at(heard)
        if self.is_whole:  # a later truncation no longer knows how long the whole was
            self._read = [min(read, self._share(end)) for end, read in zip(self._ends, self._read, strict=True)]
        self.text, self.samples, self.is_whole = self.text[: self._chars[at]], heard, False
        del self._chars[at + 1 :], self._tokens[at + 1 :]
        packets = bisect_left(self._ends, heard) + 1 if heard else 0
        del self._ends[packets:], self._read[packets:]
        if self._ends:
            self._ends[-1] = heard

    def _at(self, heard: int) -> int:
        """Return the event of text up to which the first `heard` samples may have gone."""
        if self.is_whole and heard >= self.samples:
            return len(self._chars) - 1
        tokens = self._read[bisect_left(self._ends, heard)] if heard else 0
        if self.is_whole:
            tokens = min(tokens, self._share(heard))
        return bisect_right(self._tokens, tokens) - 1

    def _share(self, heard: int) -> int:
        """Return as many of a whole speech's tokens as the first `heard` samples are of its samples, rounded up."""
        return -(-self._tokens[-1] * heard // self.samples)
