"""The times of one turn's events, for the client's TurnTimings and for the metrics of the published latency table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway import metrics
from services.gateway.turn.events import TurnTimings
from services.gateway.turn.worker_calls import SpeechDone


@dataclass(slots=True)
class TurnTimes:
    """Seconds from the request's arrival; None = has not happened."""

    arrived_s: float
    clock: Callable[[], float] = time.monotonic
    # Somebody waits for it. Else it lets others pass, and its waits say nothing of what users see.
    is_awaited: bool = True
    prepared_s: float | None = None
    first_token_s: float | None = None
    first_frame_s: float | None = None
    first_audio_s: float | None = None
    last_token_s: float | None = None
    last_audio_s: float | None = None
    # Sum over the stages.
    queue_s: float = 0.0
    samples: int = 0
    stage_began_s: dict[str, float] = field(default_factory=dict[str, float])

    def now_s(self) -> float:
        return self.clock() - self.arrived_s

    def granted(self, stage: str, tenant_label: str, waited_s: float) -> None:
        self.queue_s += waited_s
        _, of_stage, of_tenant = metrics.queue_waits(stage, tenant_label)
        of_stage.observe(waited_s)
        of_tenant.observe(waited_s)

    def began(self, stage: str) -> None:
        self.stage_began_s[stage] = self.now_s()

    def prepared(self) -> None:
        self.prepared_s = self.now_s()
        metrics.PREPROCESS.observe(self.prepared_s - self.stage_began_s["preprocess"])

    def tokens(self) -> None:
        """Text tokens arrived."""
        self.last_token_s = self.now_s()
        if self.first_token_s is None:
            self.first_token_s = self.last_token_s
            if self.is_awaited:
                metrics.FIRST_TEXT.observe(self.first_token_s)
            metrics.THINKER_FIRST_TOKEN.observe(self.first_token_s - self.stage_began_s["thinker"])

    def given(self) -> None:
        """Note that the whole text is there, which no thinker made."""
        self.first_token_s = self.last_token_s = self.now_s()

    def speech(self, pcm_bytes: int) -> None:
        """Note that codec frames arrived, usually with samples."""
        now_s = self.now_s()
        if self.first_frame_s is None:
            self.first_frame_s = now_s
        if pcm_bytes and self.first_audio_s is None:
            self.first_audio_s = now_s
            if self.is_awaited:
                metrics.FIRST_AUDIO.observe(now_s)
        if pcm_bytes:
            self.last_audio_s = now_s
            self.samples += pcm_bytes // 2

    def spoken(self, done: SpeechDone, sample_rate: int, *, resumed: bool) -> None:
        """Observe the talker's own figures and the real-time factor: first token to last sample, over the speech.

        The first frame of a talker that `resumed` does not count: it comes long after the answer's first frame.
        """
        if not done.frames:
            return
        if not resumed:
            metrics.TALKER_FIRST_FRAME.observe(done.first_frame_ms / 1000)
        metrics.TALKER_FRAME.observe(done.talker_ms_per_frame / 1000)
        metrics.PREDICTOR_FRAME.observe(done.predictor_ms_per_frame / 1000)
        metrics.CODEC_FRAME.observe(done.codec_ms_per_frame / 1000)
        if self.first_token_s is not None and self.last_audio_s is not None and self.samples and sample_rate:
            metrics.REAL_TIME_FACTOR.observe((self.last_audio_s - self.first_token_s) / (self.samples / sample_rate))
        if self.first_frame_s is not None and self.last_audio_s is not None and self.last_audio_s > self.first_frame_s:
            metrics.TALKER_FRAMES_PER_S.observe(done.frames / (self.last_audio_s - self.first_frame_s))

    def generated(self, tokens: int) -> None:
        if self.first_token_s is not None and self.last_token_s is not None and tokens > 1:
            elapsed_s = self.last_token_s - self.first_token_s
            if elapsed_s > 0:
                metrics.THINKER_TOKENS_PER_S.observe((tokens - 1) / elapsed_s)

    def told(self) -> TurnTimings:
        """Return what the client is told."""
        return TurnTimings(
            prepare_ms=_ms(self.prepared_s),
            thinker_first_token_ms=_ms(self.first_token_s),
            talker_first_frame_ms=_ms(self.first_frame_s),
            first_audio_ms=_ms(self.first_audio_s),
            queue_ms=self.queue_s * 1000,
            total_ms=self.now_s() * 1000,
        )


def _ms(value_s: float | None) -> float:
    return (value_s or 0.0) * 1000
