"""What one tenant may have of files and batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Of each tenant, but `batch_lines`, which is of one batch, and `lease_s`."""

    files: int = 1000
    file_bytes: int = 10 * 1024**3
    # Of media that requests name.
    media_files: int = 10_000
    media_bytes: int = 10 * 1024**3
    batch_lines: int = 50_000
    batches: int = 16
    # How long a silent runner holds what it took.
    lease_s: float = 30.0

    def of_files(self, *, is_media: bool) -> tuple[int, int]:
        """Return the most files, and the most bytes of all of them."""
        return (self.media_files, self.media_bytes) if is_media else (self.files, self.file_bytes)
