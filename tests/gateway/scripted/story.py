"""The answer of scripted workers, which is the same wherever a call resumes."""

from __future__ import annotations

from dataclasses import dataclass

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2

CODEBOOKS = 2
SAMPLES_PER_FRAME = 4
_END = 999
_MEDIA_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Story:
    """`words` tokens of text and an end token; `frames` frames of speech, the first of which gives a sample less."""

    words: int = 8
    frames: int = 10

    @property
    def token_ids(self) -> list[int]:
        return [*range(100, 100 + self.words), _END]

    @property
    def text(self) -> str:
        return "".join(map(self._word, range(self.words + 1)))

    @property
    def codes(self) -> list[int]:
        return [code for frame in range(self.frames) for code in self._frame(frame)]

    @property
    def pcm(self) -> bytes:
        return b"".join(map(self._samples, range(self.frames)))

    def _word(self, index: int) -> str:
        return f"w{index} " if index < self.words else ""

    def _frame(self, frame: int) -> list[int]:
        return [10 * frame, 10 * frame + 1]

    def _samples(self, frame: int) -> bytes:
        count = SAMPLES_PER_FRAME - (frame == 0)
        return b"".join((100 * frame + n).to_bytes(2, "little", signed=True) for n in range(count))

    def prompt(self, start: preprocess_pb2.PrepareStart) -> tuple[list[int], int]:
        """Return the token ids and the number of media items, which have placeholders at the start of the prompt."""
        items = sum(part.WhichOneof("content") != "text" for m in start.messages for part in m.parts)
        return [7] * (_MEDIA_TOKENS * items) + [1, 2, 3], items

    def feature(self, index: int, ref: common_pb2.BlobRef) -> preprocess_pb2.Feature:
        return preprocess_pb2.Feature(
            modality=common_pb2.MODALITY_AUDIO,
            hash=f"sound-{index}",
            offset=_MEDIA_TOKENS * index,
            length=_MEDIA_TOKENS,
            kwargs=ref,
        )

    def texts(self, done: int) -> list[thinker_pb2.GenerateResponse]:
        """Return one message per token after the first `done`, and then the end."""
        ids = self.token_ids
        texts = [
            thinker_pb2.GeneratedText(
                token_ids=[ids[n]],
                content_delta=self._word(n),
                is_last=n == len(ids) - 1,
                cached_tokens=2 if n == done else 0,
            )
            for n in range(done, len(ids))
        ]
        end = thinker_pb2.GenerateDone(
            finish_reason=thinker_pb2.FINISH_REASON_STOP, completion_tokens=len(ids), cached_tokens=2
        )
        return [
            *(thinker_pb2.GenerateResponse(text=text) for text in texts),
            thinker_pb2.GenerateResponse(done=end),
        ]

    def speech(self, frame: int, text_tokens: int) -> talker_pb2.SpeakResponse:
        return talker_pb2.SpeakResponse(
            speech=talker_pb2.Speech(
                first_frame=frame,
                codes=self._frame(frame),
                first_sample=len(b"".join(map(self._samples, range(frame)))) // 2,
                pcm=self._samples(frame),
                text_tokens=text_tokens,
            )
        )

    def spoken(self) -> talker_pb2.SpeakResponse:
        return talker_pb2.SpeakResponse(
            done=talker_pb2.SpeakDone(reason=talker_pb2.SPEECH_END_STOP, frames=self.frames, samples=len(self.pcm) // 2)
        )
