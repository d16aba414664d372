"""Where speech begins and ends, from the probability of speech of each hop. Pure: no audio, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.turns.options import TurnDetection

HOP_MS = 32
"""What one probability is of."""
HOP_SAMPLES = HOP_MS * SAMPLE_RATE // 1000
"""768 samples, of which the detector's resampler makes the 512 that its network takes."""
HOP_BYTES = 2 * HOP_SAMPLES
MIN_SPEECH_MS = 3 * HOP_MS
"""Shorter sounds are clicks."""
TAIL_MS = 3 * HOP_MS
"""So long the detector takes a sound for speech after its end."""
SHORT_SPEECH_MS = 1000
"""A word or two, without a pause for breath."""
# Speech goes on until it is this much less probable than the threshold that it began at.
_HYSTERESIS = 0.15
_LEAST_PROBABLE = 0.01
# A sound that is too short yet is forgotten after this much silence. Of sounds that are to interrupt, each must be long
# enough by itself: what the detector leaves of the silence between two is a tail less.
_FORGET_MS = 6 * HOP_MS
_FORGET_INTERRUPTING_MS = _FORGET_MS - TAIL_MS


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    # The first hop of speech.
    hop: int


@dataclass(frozen=True, slots=True)
class BriefSound:
    """A sound is over that was too short to begin a turn, and long enough to be meant. It is forgotten unless `begin`
    makes a turn of it."""

    # Its first hop, the first one behind it, and its hops of speech.
    hop: int
    end: int
    voiced: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """The silence is long enough to work ahead. `hop` is the first one behind what was heard."""

    hop: int


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """It was a pause: speech is back before its end."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    # The first hop behind the silence that ended it.
    hop: int


def interrupting_ms(speech_ms: int) -> int:
    """Return for how long the detector must take a sound for speech, so that it is `speech_ms` long."""
    return max(speech_ms + TAIL_MS, MIN_SPEECH_MS)


Change = SpeechStarted | BriefSound | SpeechPaused | SpeechResumed | SpeechStopped


class Endpointer:
    """`pause_ms`: silence that is told as a pause; 0 = none is. `short_pause_ms`: the same after SHORT_SPEECH_MS of
    speech at most; None = as after more."""

    def __init__(self, options: TurnDetection, pause_ms: int = 0, short_pause_ms: int | None = None) -> None:
        self.change(options, pause_ms, short_pause_ms)
        self.hops = 0
        """How many have been heard."""
        self.is_speaking = False
        # The first hop of what may become speech, or is.
        self._onset: int | None = None
        # Hops of speech since then.
        self._voiced = 0
        # The first hop of the silence since the last speech.
        self._silent_from: int | None = None
        self._is_paused = False

    def change(self, options: TurnDetection, pause_ms: int = 0, short_pause_ms: int | None = None) -> None:
        """Hear with other options from the next hop on."""
        self._high = options.threshold
        self._low = max(options.threshold - _HYSTERESIS, min(_LEAST_PROBABLE, options.threshold))
        self._stop_ms = options.longest_silence_ms
        self._pause_ms = pause_ms if pause_ms < self._stop_ms else 0
        short_ms = pause_ms if short_pause_ms is None else short_pause_ms
        self._short_pause_ms = short_ms if short_ms < self._stop_ms else 0

    @property
    def onset(self) -> int | None:
        """The first hop of the speech, or of what may become speech."""
        return self._onset

    @property
    def may_become_speech(self) -> bool:
        """Whether there is a sound that is more than a click, and not long enough yet to begin a turn."""
        return self.sound_ms >= MIN_SPEECH_MS

    @property
    def sound_ms(self) -> int:
        """For how long the detector has taken a sound for speech that has begun no turn; 0 = there is none."""
        return 0 if self.is_speaking else self._voiced * HOP_MS

    @property
    def silent_ms(self) -> int:
        """The silence since the last speech of a turn; 0 = nobody's turn, or speech goes on."""
        return 0 if not self.is_speaking or self._silent_from is None else (self.hops - self._silent_from) * HOP_MS

    def reset(self) -> None:
        """Forget the speech. What follows is heard anew."""
        self.is_speaking = self._is_paused = False
        self._onset = self._silent_from = None
        self._voiced = 0

    def feed(
        self, probability: float, min_speech_ms: int = MIN_SPEECH_MS, brief_ms: int | None = None
    ) -> Change | None:
        """Hear the next hop. It takes `min_speech_ms` of speech to begin a turn; a sound that is shorter, and has
        `brief_ms`, is told at its end; None = none is."""
        self.hops += 1
        if probability >= self._high:
            return self._voice(min_speech_ms)
        forget_ms = _FORGET_MS if min_speech_ms <= MIN_SPEECH_MS else _FORGET_INTERRUPTING_MS
        return self._no_voice(probability, forget_ms, brief_ms)

    def begin(self, sound: BriefSound) -> None:
        """Make a turn of a sound after all, with what has followed it."""
        self.is_speaking = True
        if self._onset is None:
            self._silent_from = sound.end
        self._onset = sound.hop
        self._voiced += sound.voiced

    def _voice(self, min_speech_ms: int) -> Change | None:
        self._silent_from = None
        if self._onset is None:
            self._onset = self.hops - 1
        self._voiced += 1
        if not self.is_speaking:
            if self._voiced * HOP_MS < min_speech_ms:
                return None
            self.is_speaking = True
            return SpeechStarted(self._onset)
        if self._is_paused:
            self._is_paused = False
            return SpeechResumed()
        return None

    def _no_voice(self, probability: float, forget_ms: int, brief_ms: int | None) -> Change | None:
        if self._onset is None:
            return None
        if self._silent_from is None:
            if probability >= self._low:
                return None
            self._silent_from = self.hops - 1
        silent_ms = (self.hops - self._silent_from) * HOP_MS
        if not self.is_speaking:
            if silent_ms < forget_ms:
                return None
            sound = BriefSound(self._onset, self._silent_from, self._voiced)
            self.reset()
            return sound if brief_ms is not None and sound.voiced * HOP_MS >= brief_ms else None
        if silent_ms >= self._stop_ms:
            self.reset()
            return SpeechStopped(self.hops)
        pause_ms = self._short_pause_ms if self._voiced * HOP_MS <= SHORT_SPEECH_MS else self._pause_ms
        if pause_ms and not self._is_paused and silent_ms >= pause_ms:
            self._is_paused = True
            return SpeechPaused(self.hops)
        return None
