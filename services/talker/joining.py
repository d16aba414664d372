"""How streams' prompts get into the cache, and what was delivered of their speech before: by bounded pieces."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.talker.checkpoint import SpeechModels
from services.talker.conditioning import Conditioner
from services.talker.speaker import PromptPiece, Speaker
from services.talker.stream import SpeechStream

# Rows that one step takes in, those included that only fill up shorter prompts: on a GPU some milliseconds.
ROWS_A_STEP = 512
# Delivered frames that a step takes in: beside their rows they pass through draws and codec.
FRAMES_A_STEP = 64


class Prefiller:
    """Takes prompts in; the engine's thread uses it."""

    def __init__(self, models: SpeechModels, speaker: Speaker) -> None:
        self._config = models.config
        self._conditioner, self._speaker = Conditioner(models), speaker

    def advance(self, streams: Sequence[SpeechStream]) -> None:
        """The next piece of the first stream, and of those after it that fit into the same step; where the speaker is
        batch-invariant, of the first alone.

        After its last piece a stream can make its first step.
        """
        taken: list[SpeechStream] = []
        longest = frames = 0
        for stream in streams:
            longest, frames = max(longest, _next_rows(stream)), frames + _next_frames(stream)
            is_full = longest * (len(taken) + 1) > ROWS_A_STEP or frames > FRAMES_A_STEP
            if taken and (self._speaker.is_batch_invariant or is_full):
                break
            taken.append(stream)
        self._speaker.prefill([self._piece(stream) for stream in taken])
        for stream in taken:
            self._took(stream, _next_rows(stream))

    def _piece(self, stream: SpeechStream) -> PromptPiece:
        state, prompt = stream.state, stream.request.prompt
        begin, end = state.length, state.length + _next_rows(stream)
        if begin >= prompt.rows - 1:
            return self._delivered_piece(stream, begin - (prompt.rows - 1), end - (prompt.rows - 1))
        if state.opening is None:
            state.opening = self._conditioner.opening_rows(prompt)
        return PromptPiece(state.slot, begin, state.opening[begin:end], prompt.positions[:, begin:end])

    def _delivered_piece(self, stream: SpeechStream, begin: int, end: int) -> PromptPiece:
        """Row k hears the answer's token k, and frame k − 1 or, at first, what opens speech."""
        state, prompt, delivered = stream.state, stream.request.prompt, stream.request.delivered_codes
        past = [self._config.tts_eos_id, *[self._config.tts_pad_id] * end]
        ids = (stream.text.spoken[:end] + past)[begin:end]
        heard = self._conditioner.frame_rows(delivered[max(begin - 1, 0) : end - 1])
        if begin == 0:
            heard = torch.cat((self._conditioner.first_row()[None], heard))
        positions = (torch.arange(begin, end, dtype=torch.float32) + prompt.last_position).expand(3, -1)
        return PromptPiece(state.slot, state.length, heard + self._conditioner.text_rows(ids), positions)

    def _took(self, stream: SpeechStream, rows: int) -> None:
        state, request, delivered = stream.state, stream.request, stream.request.delivered_codes
        begin = state.length - (request.prompt.rows - 1)
        state.length += rows
        if begin >= 0:
            part = delivered[begin : begin + rows]
            self._speaker.replay(state.slot, part, begin, len(delivered), request.sampling)
        elif begin + rows == 0:
            state.opening = None
        if state.is_prefilled:
            last = self._conditioner.frame_rows(delivered[-1:])[0] if len(delivered) else self._conditioner.first_row()
            self._speaker.hear(state.slot, last)
            state.frames, state.samples = len(delivered), self._speaker.samples_after(len(delivered))


def _next_rows(stream: SpeechStream) -> int:
    """How many rows the stream's next piece has: of the prompt but its last row, then of delivered frames."""
    return min(_prompt_left(stream), ROWS_A_STEP) or _next_frames(stream)


def _next_frames(stream: SpeechStream) -> int:
    """How many delivered frames the stream's next piece has."""
    if _prompt_left(stream):
        return 0
    return min(stream.state.prefill_rows - stream.state.length, FRAMES_A_STEP)


def _prompt_left(stream: SpeechStream) -> int:
    return max(stream.request.prompt.rows - 1 - stream.state.length, 0)
