"""What one tenant may have of files and batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Of each tenant, but `batch_lines`, which is of one batch, and `lease_s`."""

    files: int = 1000
    file_bytes: int = 10 * 1024**3
    batch_lines: int = 50_000
    batches: int = 16
    # How long a silent runner holds what it took.
    lease_s: float = 30.0
