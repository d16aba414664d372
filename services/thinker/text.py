"""Detokenizes an answer token by token: whole characters, reasoning apart from content, stop strings.

vLLM's own detokenizer does not fit. An answer that resumes after another worker's tokens needs exactly the text state
that it had there, and vLLM treats those tokens as part of the prompt.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence

from tokenizers import Tokenizer

THINK, END_THINK = "<think>", "</think>"


class TokenBytes:
    """The bytes that each token adds to the text, for the byte-level BPE of all Qwen tokenizers.

    Special tokens add none, except for the two tags of a chain of thought where `thinks` is true.
    """

    def __init__(self, tokenizer: Tokenizer, *, thinks: bool) -> None:
        decoder = json.loads(tokenizer.to_str())["decoder"]
        if not decoder or decoder["type"] != "ByteLevel":
            raise ValueError("the checkpoint's tokenizer is not a byte-level BPE; only those are supported")
        to_byte = {character: byte for byte, character in _byte_characters().items()}
        added = tokenizer.get_added_tokens_decoder()
        self._bytes: list[bytes] = []
        self._names = {token: of.content.encode() for token, of in added.items() if of.special}
        for token in range(tokenizer.get_vocab_size(with_added_tokens=True)):
            if token in added:
                content = added[token].content
                shown = not added[token].special or (thinks and content in (THINK, END_THINK))
                self._bytes.append(content.encode() if shown else b"")
            else:
                text = tokenizer.id_to_token(token) or ""
                self._bytes.append(bytes(to_byte[character] for character in text))

    def __getitem__(self, token: int) -> bytes:
        """Return the token's bytes. Ids in the padding of the embedding table have none."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def shown(self, token: int) -> bytes:
        """Return the token's bytes, or its name where it adds none to the text."""
        return self[token] or self._names.get(token, b"")


def _byte_characters() -> dict[int, str]:
    """Return GPT-2's alphabet: printable Latin-1 maps to itself, the other bytes to characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


class ThoughtSplitter:
    """Splits text at the end of the chain of thought. The two tags belong to neither side and may arrive in parts."""

    def __init__(self, *, thinking: bool) -> None:
        self.thinking = thinking
        self._held = ""
        self._at_start = thinking

    def add(self, text: str) -> tuple[str, str]:
        """Return the (reasoning, content) that no later text can change."""
        if not self.thinking:
            return "", text
        self._held += text
        if self._at_start:
            begun = self._held.lstrip()
            if begun == "" or (len(begun) < len(THINK) and THINK.startswith(begun)):
                return "", ""
            if begun.startswith(THINK):
                self._held = begun.removeprefix(THINK)
            self._at_start = False
        thought, tag, content = self._held.partition(END_THINK)
        if tag:
            self.thinking, self._held = False, ""
            return thought, content
        keep = _overlap(thought, (END_THINK,))
        self._held = thought[len(thought) - keep :]
        return thought[: len(thought) - keep], ""

    def finish(self) -> str:
        """Return the rest of the reasoning."""
        rest, self._held = self._held, ""
        return rest


class StopStrings:
    """Finds the first stop string. Holds back text that may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str, *, active: bool = True) -> tuple[str, str | None]:
        """Return the settled text and the stop string that ended it, if any. Where not `active`, all text passes."""
        self._held += text
        if not active or not self._stops:
            return self.finish(), None
        found = [
            (at + len(stop), index, at) for index, stop in enumerate(self._stops) if (at := self._held.find(stop)) >= 0
        ]
        if found:
            _, index, at = min(found)  # the one that completes first
            settled, self._held = self._held[:at], ""
            return settled, self._stops[index]
        keep = _overlap(self._held, self._stops)
        settled, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return settled, None

    def finish(self) -> str:
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, patterns: Sequence[str]) -> int:
    """Return the length of the longest suffix of `text` that begins a pattern without completing it."""
    longest = min(max((len(pattern) for pattern in patterns), default=1) - 1, len(text))
    for length in range(longest, 0, -1):
        end = text[-length:]
        if any(len(pattern) > length and pattern.startswith(end) for pattern in patterns):
            return length
    return 0


def utf8_decoder() -> codecs.IncrementalDecoder:
    """Return a decoder that yields whole characters only. Invalid UTF-8 becomes U+FFFD, as in tokenizers' decoder."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace")
