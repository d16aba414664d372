"""What turn taking must manage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.conversation.figures import Figures

_STOP_MS = 100.0
_BACKS_A_FALSE = 100
_WORD_MS = 400.0


def missed_targets(figures: Figures, detection: str) -> Sequence[str]:
    """Return the targets that these figures miss. With "server_vad" a turn ends after half a second of silence, so that
    no word is decided sooner."""
    stop_ms, word_ms = _p95(figures.stop_at_edge), _p95(figures.words)
    missed = {
        f"barge-ins stop the answer {stop_ms:.0f} ms after enough speech (p95)": stop_ms > _STOP_MS,
        f"{figures.false_interruptions} false interruptions of {figures.backs} back-channels": (
            figures.false_interruptions * _BACKS_A_FALSE > max(figures.backs, _BACKS_A_FALSE)
        ),
        f"{figures.missed} turns were missed": figures.missed > 0,
        f"{figures.barges_unheard} barge-ins stopped nothing": figures.barges_unheard > 0,
        f"single words are decided after {word_ms:.0f} ms (p95)": detection != "server_vad" and word_ms > _WORD_MS,
        f"{len(figures.broken)} conversations broke": bool(figures.broken),
    }
    return [target for target, is_missed in missed.items() if is_missed]


def _p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95)) if values else 0.0
