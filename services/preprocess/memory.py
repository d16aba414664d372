"""How the memory of all requests is divided between the stages of their media.

A request takes each stage's memory before it allocates, and stages follow one another: nobody who holds memory of a
later stage waits for an earlier one, so requests can't wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from antiphon.v1 import preprocess_pb2
from services.common.memory_budget import MemoryBudget, container_bytes
from services.preprocess.limits import MediaLimits
from services.preprocess.parts import is_heard, media_parts, sources_of

FILE_COPIES = 3
"""A file in work: here, in the sealed memory of its job, and in its decoder."""
SAMPLE_BYTES_PER_S = 64_000
"""Of a decoded sound: 16 kHz, float32."""
AUDIO_TOKENS_PER_S = 13
_LEAST_FILE_BYTES_PER_S = 1000
"""Speech is sent at 8 kbit/s and more. A file with less (long silence) is decoded twice: once to learn its length."""
_SMALL_SOUNDS_BYTES = 32 << 20
"""Of all sounds of a request that are decoded at a time, those of LONG_SOUND_BYTES and more left out."""
LONG_SOUND_BYTES = 4 << 20

_ESTIMATED_BYTES = 1 << 10
"""How much a file may have less than what was said before it was read."""
_FILES, _SMALL = 0.3, 0.3
AT_REST_BYTES = 2 << 30
"""Assumed: the service, the fork server and idle decoders."""
MARGIN = 1.2
LEAST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class StageBudgets:
    """`files`: media files, and decoded sounds until their features are made. `small` and `large`: decoding and
    processing of small and large items, apart so that a small one waits for small ones only."""

    files: MemoryBudget
    small: MemoryBudget
    large: MemoryBudget

    def of(self, size_bytes: int) -> MemoryBudget:
        """Return the budget of an item that is processed without being decoded first."""
        return self.small if size_bytes <= self.small.total_bytes // 2 else self.large


def spare_bytes(cache_bytes: int) -> int:
    """Return what the container leaves to requests: its memory without what the processes take at rest and
    `cache_bytes` of caches, and with a margin for what the system keeps."""
    spare = container_bytes() - AT_REST_BYTES - cache_bytes
    return max(int(spare / MARGIN), LEAST_BYTES)


def divide(total_bytes: int) -> StageBudgets:
    files, small = int(total_bytes * _FILES), int(total_bytes * _SMALL)
    return StageBudgets(
        MemoryBudget(files, "files"),
        MemoryBudget(small, "small items"),
        MemoryBudget(total_bytes - files - small, "large items"),
    )


def sound_bytes(file_bytes: int, limits: MediaLimits) -> int:
    """Return what the samples of a sound of so many bytes take, most of the time at most."""
    return int(SAMPLE_BYTES_PER_S * min(file_bytes / _LEAST_FILE_BYTES_PER_S, limits.audio_s))


def most_file_bytes(
    messages: Sequence[preprocess_pb2.Message],
    limits: MediaLimits,
    max_tokens: int,
    *,
    use_audio_in_video: bool,
    received: Mapping[int, bytes | bytearray] | None = None,
) -> int:
    """Return how much memory a request's files and sounds may take; without those of `received`, once its inline files
    are here."""
    known = received or {}
    here = sum(map(len, known.values()))
    coming, sounds = 0, 0
    for part in media_parts(messages):
        for source in sources_of(part):
            is_here = source.WhichOneof("source") == "inline_index" and source.inline_index in known
            size = len(known[source.inline_index]) if is_here else limits.item_bytes + _ESTIMATED_BYTES
            coming += 0 if is_here else size
            if part.modality == "audio" or is_heard(part, use_audio_in_video=use_audio_in_video):
                sounds += sound_bytes(size, limits)
    # The prompt bounds all sounds whose length is known; one may turn out too long.
    fitting = int(SAMPLE_BYTES_PER_S * (max_tokens / AUDIO_TOKENS_PER_S + limits.audio_s)) + _SMALL_SOUNDS_BYTES
    if sounds:  # one may be longer than its file lets expect
        sounds += int(SAMPLE_BYTES_PER_S * limits.audio_s)
    return FILE_COPIES * max(min(limits.request_bytes - here, coming), 0) + min(sounds, fitting)
