"""The audio that a client has sent and that is in no item yet, and what the user's camera showed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.common.errors import BadInput, TooLarge
from services.gateway.realtime.conversation import SAMPLE_RATE, AudioContent, Content, wav_of
from services.gateway.realtime.input_frames import Frame, InputFrames

# Less is no utterance: the model's audio encoder needs some frames.
MIN_COMMIT_MS = 100
MOST_KEPT_BYTES = 120 * 2 * SAMPLE_RATE
"""What is kept for the next connection: two minutes of audio."""
MIN_COMMIT_SAMPLES = MIN_COMMIT_MS * SAMPLE_RATE // 1000


@dataclass(frozen=True, slots=True)
class Uncommitted:
    """What a buffer holds: samples, and frames whose places count from the first one."""

    pcm: bytes
    frames: Sequence[Frame] = ()

    @property
    def size_bytes(self) -> int:
        return len(self.pcm) + sum(len(frame.jpeg) for frame in self.frames)


class InputBuffer:
    """Samples by their place in all audio of the session. `max_bytes`: the longest audio of one item."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pcm = bytearray()
        self.start = 0
        """The first sample that is held."""
        self.frames = InputFrames(max_bytes)

    @property
    def end(self) -> int:
        """The sample behind the last one."""
        return self.start + len(self._pcm) // 2

    @property
    def duration_ms(self) -> int:
        return (self.end - self.start) * 1000 // SAMPLE_RATE

    @property
    def size_bytes(self) -> int:
        return len(self._pcm) + self.frames.size_bytes

    def has_room(self, more_bytes: int) -> bool:
        return len(self._pcm) + more_bytes <= self._max_bytes

    def check(self, pcm: bytes | bytearray | memoryview) -> None:
        """Raise TooLarge where these samples can't be appended."""
        if not self.has_room(len(pcm)):
            raise TooLarge(
                f"The audio buffer would hold more than {self._max_bytes} bytes. Commit or clear it first.",
                param="audio",
                code="input_audio_buffer_full",
            )

    def append(self, pcm: bytes | bytearray | memoryview) -> None:
        self._pcm += pcm

    def drop(self, until: int) -> None:
        """Forget what was before `until`, but for what the camera showed last."""
        self.frames.drop(until)
        count = min(max(until - self.start, 0), len(self._pcm) // 2)
        self.start += count
        del self._pcm[: 2 * count]

    def take(self, until: int) -> None:
        """Forget all until `until`: it is in an item, or is to be in none."""
        self.frames.take(until)
        self.drop(until)

    def clear(self) -> None:
        self.take(self.end)

    def uncommitted(self) -> Uncommitted | None:
        """Return all that is held; None = nothing is, or more than is kept: a part would lack its beginning."""
        if not 0 < self.size_bytes <= MOST_KEPT_BYTES:
            return None
        frames = [replace(frame, at=frame.at - self.start) for frame in self.frames]
        return Uncommitted(bytes(self._pcm), frames)

    def restore(self, before: Uncommitted) -> None:
        """Put what another buffer held into this one, which is empty, if it has room for it."""
        if not self.has_room(len(before.pcm)):
            return
        for frame in before.frames:
            self.frames.add(replace(frame, at=frame.at + self.start))
        self.append(before.pcm)

    def contents(self) -> list[Content]:
        """Return all of it. Raise BadInput where the audio is too short."""
        if self.end - self.start < MIN_COMMIT_SAMPLES:
            raise BadInput(
                f"The audio buffer holds {(self.end - self.start) * 1000 / SAMPLE_RATE:.2f} ms. Append at least"
                f" {MIN_COMMIT_MS} ms before a commit.",
                code="input_audio_buffer_commit_empty",
            )
        return [*self.frames.contents(self.start, self.end), AudioContent(wav_of(self._pcm))]

    def cut(self, start: int, end: int) -> list[Content]:
        """Return what is held from `start` to `end`. The samples are behind silence where they are too few."""
        pcm = bytes(self._pcm[2 * max(start - self.start, 0) : 2 * max(end - self.start, 0)])
        audio = AudioContent(wav_of(bytes(max(2 * MIN_COMMIT_SAMPLES - len(pcm), 0)) + pcm))
        return [*self.frames.contents(start, end), audio]


def check_samples(pcm: bytes | bytearray, param: str, rate: int = SAMPLE_RATE) -> None:
    if len(pcm) % 2:
        raise BadInput(
            f"Invalid '{param}': it ends within a sample. Send whole 16-bit samples, little-endian, at {rate} Hz.",
            param=param,
        )
