"""Turns the token ids of one answer into text deltas, and finds its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.thinker.text import END_THINK, THINK, StopStrings, ThoughtSplitter, TokenBytes, utf8_decoder


@dataclass(frozen=True)
class Delta:
    """The text that some tokens added. `token_ids` ends with the token that completed `stop_string`, if any."""

    token_ids: list[int]
    content: str
    reasoning: str
    stop_string: str | None


class GeneratedAnswer:
    """The text state of one answer.

    Stop strings end the content. They are ignored inside a chain of thought and in the first `min_tokens` tokens.
    """

    def __init__(self, table: TokenBytes, *, thinking: bool, stops: Sequence[str], min_tokens: int) -> None:
        self._table = table
        self._decoder = utf8_decoder()
        self._splitter = ThoughtSplitter(thinking=thinking)
        self._stops = StopStrings(stops)
        self._min_tokens = min_tokens
        self.tokens = 0
        self.reasoning_tokens = 0

    @property
    def is_thinking(self) -> bool:
        """Whether the chain of thought goes on."""
        return self._splitter.thinking

    def add(self, token_ids: Sequence[int], *, finished: bool) -> Delta:
        """Return what the tokens add. Where `finished`, hold nothing back except an incomplete character."""
        content, reasoning, taken = "", "", 0
        stop_string = None
        for token in token_ids:
            taken += 1
            self.tokens += 1
            was_thinking = self._splitter.thinking
            thought, text = self._splitter.add(self._decoder.decode(self._table[token]))
            reasoning += thought
            self.reasoning_tokens += was_thinking
            settled, stop_string = self._stops.add(text, active=self.tokens > self._min_tokens)
            content += settled
            if stop_string is not None:
                break
        if finished and stop_string is None:
            reasoning += self._splitter.finish()
            content += self._stops.finish()
        return Delta(list(token_ids[:taken]), content, reasoning, stop_string)


def begins_in_thought(prompt: Sequence[int], table: TokenBytes) -> bool:
    """Return whether a Thinking model's answer to this prompt starts inside its chain of thought.

    It does unless the prompt ends with a closed one, which is how templates switch thinking off
    ("<think>\\n\\n</think>\\n\\n").
    """
    tail = b"".join(table[token] for token in prompt[-16:]).rstrip()
    return not (tail.endswith(END_THINK.encode()) and THINK.encode() in tail)
