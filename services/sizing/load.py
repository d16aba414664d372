"""How many replicas a load takes.

The thinkers by the published latencies (technical report, table 2; theoretical, hardware not named): with 6 streams a
thinker gives 53 tokens a second for each. The talkers by their slots, each of which speaks in real time. A cluster's
own metrics overrule both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PUBLISHED_STREAMS = 6
THINKER_TOKENS_PER_S = 53.0 * PUBLISHED_STREAMS
"""Documented, for one thinker with PUBLISHED_STREAMS streams."""
UTILIZATION = 0.8
"""Assumed: the part of the slots that a steady load fills; the rest is for peaks."""
PREPROCESS_SLOTS = 8
"""The service's default."""
PREPROCESS_SHARE = 0.2
"""Assumed: the part of an answer's time that preprocessing takes."""
GATEWAY_STREAMS = 256
"""Assumed: streams for each gateway."""


@dataclass(frozen=True)
class Load:
    """The load at its peak."""

    streams: float = 1
    """Answers at a time."""
    audio_minutes: float = 0
    """Minutes of speech an hour; 0 = what `streams` make."""
    tokens_per_s: float = 0
    """Text tokens a second of all thinkers together; 0 = what `streams` make."""


@dataclass(frozen=True)
class Replicas:
    gateway: int
    preprocess: int
    thinker: int
    talker: int
    """0 if the model does not speak."""


def replicas_for(load: Load, thinker_slots: int, talker_slots: int) -> Replicas:
    """Return the replicas for a load. talker_slots: 0 if the model does not speak."""
    thinkers = max(
        _ceil(load.streams / (thinker_slots * UTILIZATION)),
        _ceil(load.tokens_per_s / (THINKER_TOKENS_PER_S * UTILIZATION)),
    )
    talkers = 0
    if talker_slots:
        talkers = max(
            _ceil(load.streams / (talker_slots * UTILIZATION)),
            _ceil(load.audio_minutes / 60 / (talker_slots * UTILIZATION)),
        )
    return Replicas(
        gateway=max(2, _ceil(load.streams / GATEWAY_STREAMS)),
        preprocess=max(2, _ceil(load.streams * PREPROCESS_SHARE / (PREPROCESS_SLOTS * UTILIZATION))),
        thinker=thinkers,
        talker=talkers,
    )


def _ceil(value: float) -> int:
    return max(1, math.ceil(round(value, 6)))
