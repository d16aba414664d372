"""The statuses of a batch, as OpenAI has them.

validating ─▶ in_progress ─▶ finalizing ─▶ completed
     │             │   └── its time is up ─▶ finalizing ─▶ expired
     ▼             ▼
   failed      cancelling ─▶ finalizing ─▶ cancelled
"""

from __future__ import annotations

VALIDATING, FAILED, IN_PROGRESS, FINALIZING = "validating", "failed", "in_progress", "finalizing"
COMPLETED, EXPIRED, CANCELLING, CANCELLED = "completed", "expired", "cancelling", "cancelled"
OPEN = (VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING)
