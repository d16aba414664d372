"""The answer of scripted workers, which is the same wherever a call resumes."""

from __future__ import annotations

from dataclasses import dataclass, field

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2

CODEBOOKS = 2
SAMPLES_PER_FRAME = 4
FATAL = {"thinker": 601, "talker": 602}
"""Stage → a token that ends an engine of this stage. A message of "fatal <stage>" has it in its prompt."""
_END = 999
_MEDIA_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Story:
    """`words` tokens of text and an end token; `frames` frames of speech, the first of which gives a sample less."""

    words: int = 8
    frames: int = 10
    # Of text; a media item has three more.
    prompt_tokens: int = 3
    # Of the preprocess worker that tells it.
    fingerprint: str = "libraries 1"
    # The speech is spoken again from this frame on; None = it is not.
    again_from: int | None = None
    # Why the talker ends it.
    derailment: talker_pb2.Derailment.ValueType = talker_pb2.DERAILMENT_UNSPECIFIED

    @property
    def token_ids(self) -> list[int]:
        return [*range(100, 100 + self.words), _END]

    @property
    def spoken_ids(self) -> list[int]:
        """The tokens that a talker is told."""
        return self.token_ids

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

    def prompt(self, start: preprocess_pb2.PrepareStart | thinker_pb2.GenerateRequest) -> tuple[list[int], int]:
        """Return the token ids and the number of media items, which have placeholders at the start of the prompt."""
        parts = [part for message in start.messages for part in message.parts]
        items = sum(part.WhichOneof("content") != "text" for part in parts)
        fatal = [token_id for stage, token_id in FATAL.items() if parts[-1].text == f"fatal {stage}"]
        return [7] * (_MEDIA_TOKENS * items) + (fatal or [1]) + list(range(2, self.prompt_tokens + 1)), items

    def answering(self, prompt: list[int]) -> Story:
        """Return the story that a thinker tells to this prompt."""
        return self

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
                spoken_again=self.times_again(frame),
            )
        )

    def times_again(self, frame: int) -> int:
        """Return how many times the speech was spoken again by this frame."""
        return int(self.again_from is not None and frame >= self.again_from)

    def spoken(self) -> talker_pb2.SpeakResponse:
        return talker_pb2.SpeakResponse(
            done=talker_pb2.SpeakDone(
                reason=talker_pb2.SPEECH_END_STOP,
                frames=self.frames,
                samples=len(self.pcm) // 2,
                derailment=self.derailment,
                spoken_again=self.times_again(self.frames),
            )
        )


@dataclass(frozen=True, slots=True)
class SaidStory(Story):
    """An answer of these words, one token each. A talker is told those up to the first call of a tool, `call_id`."""

    said: tuple[str, ...] = ()
    words: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", len(self.said))

    @property
    def call_id(self) -> int:
        return 100 + self.said.index("<tool_call>")

    @property
    def spoken_ids(self) -> list[int]:
        return self.token_ids[: self.token_ids.index(self.call_id) + 1]

    def _word(self, index: int) -> str:
        return self.said[index] if index < len(self.said) else ""
