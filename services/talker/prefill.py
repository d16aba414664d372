"""Prefill: prompts, and frames that were delivered before, go into the KV cache in bounded chunks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.talker.checkpoint import SpeechModels
from services.talker.conditioning import Conditioner
from services.talker.speaker import PrefillChunk, Speaker
from services.talker.stream import SpeechStream

# Prompt tokens in one step, padding of shorter prompts included: on a GPU some milliseconds.
MAX_PREFILL_TOKENS = 512
# Tokens that one step's chunks attend to, padding included: their keys and values are copied for it, layer by layer.
MAX_PREFILL_CONTEXT = 65536
# Delivered frames in one step. Besides the KV cache, they pass through draws and codec.
MAX_PREFILL_FRAMES = 64


class Prefiller:
    """Prefills streams; the engine's thread uses it."""

    def __init__(self, models: SpeechModels, speaker: Speaker) -> None:
        self._config = models.config
        self._conditioner, self._speaker = Conditioner(models), speaker

    def advance(self, streams: Sequence[SpeechStream]) -> None:
        """Prefill the first stream's next chunk, and those of the streams after it that fit into the same step. If the
        speaker is batch-invariant, prefill the first stream alone.

        After its last chunk a stream is ready for its first step.
        """
        batch: list[SpeechStream] = []
        longest = context = frames = 0
        for stream in streams:
            tokens, count = _next_tokens(stream), len(batch) + 1
            longest, frames = max(longest, tokens), frames + _next_frames(stream)
            context = max(context, stream.state.length + tokens)
            is_full = longest * count > MAX_PREFILL_TOKENS or context * count > MAX_PREFILL_CONTEXT
            if batch and (self._speaker.is_batch_invariant or is_full or frames > MAX_PREFILL_FRAMES):
                break
            batch.append(stream)
        self._speaker.prefill([self._chunk(stream) for stream in batch])
        for stream in batch:
            self._finish_chunk(stream, _next_tokens(stream))

    def _chunk(self, stream: SpeechStream) -> PrefillChunk:
        state, prompt = stream.state, stream.request.prompt
        begin, end = state.length, state.length + _next_tokens(stream)
        if begin >= prompt.num_tokens - 1:
            return self._delivered_chunk(stream, begin - (prompt.num_tokens - 1), end - (prompt.num_tokens - 1))
        if state.prompt_embeds is None:
            state.prompt_embeds = self._conditioner.prompt_embeds(prompt)
        return PrefillChunk(state.slot, begin, state.prompt_embeds[begin:end], prompt.positions[:, begin:end])

    def _delivered_chunk(self, stream: SpeechStream, begin: int, end: int) -> PrefillChunk:
        """Return delivered frames as a chunk. Its token k is the answer's text token k plus frame k − 1; for k = 0, the
        embedding that starts speech takes the frame's place."""
        state, prompt, delivered = stream.state, stream.request.prompt, stream.request.delivered_codes
        past_end = [self._config.tts_eos_id, *[self._config.tts_pad_id] * end]
        ids = (stream.text.spoken[:end] + past_end)[begin:end]
        frames = self._conditioner.frame_embeds(delivered[max(begin - 1, 0) : end - 1])
        if begin == 0:
            frames = torch.cat((self._conditioner.first_embed()[None], frames))
        positions = (torch.arange(begin, end, dtype=torch.float32) + prompt.last_position).expand(3, -1)
        return PrefillChunk(state.slot, state.length, frames + self._conditioner.text_embeds(ids), positions)

    def _finish_chunk(self, stream: SpeechStream, tokens: int) -> None:
        state, request, delivered = stream.state, stream.request, stream.request.delivered_codes
        begin = state.length - (request.prompt.num_tokens - 1)
        state.length += tokens
        if begin >= 0:
            part = delivered[begin : begin + tokens]
            self._speaker.replay(state.slot, part, begin, len(delivered), request.sampling)
        elif begin + tokens == 0:
            state.prompt_embeds = None
        if state.is_prefilled:
            frames = self._conditioner.frame_embeds(delivered[-1:])
            last = frames[0] if len(delivered) else self._conditioner.first_embed()
            self._speaker.set_code_embeds(state.slot, last)
            state.frames, state.samples = len(delivered), self._speaker.samples_after(len(delivered))


def _next_tokens(stream: SpeechStream) -> int:
    """Return the tokens of the stream's next chunk: first of the prompt but its last token, then of delivered
    frames."""
    return min(_prompt_left(stream), MAX_PREFILL_TOKENS) or _next_frames(stream)


def _next_frames(stream: SpeechStream) -> int:
    """Return the delivered frames of the stream's next chunk."""
    if _prompt_left(stream):
        return 0
    return min(stream.state.prefill_tokens - stream.state.length, MAX_PREFILL_FRAMES)


def _prompt_left(stream: SpeechStream) -> int:
    return max(stream.request.prompt.num_tokens - 1 - stream.state.length, 0)
