"""Whose fault it is that a decoder died."""

from __future__ import annotations

import logging
import signal

from services.preprocess.decoding.jobs import Job
from services.preprocess.exhaustion import unavailable
from services.preprocess.media.problems import breaks_decoder, too_large

logger = logging.getLogger(__name__)


def blame(exit_code: int | None, job: Job, cpu_s: float) -> Exception:
    """The error for the job that a decoder died on. A crash and the end of its processor time are the file's doing;
    SIGKILL and SIGTERM come from outside: a person, or the kernel when the machine has no memory left."""
    logger.warning("a decoder died on a %s of %d bytes: %s", job.kind, job.size_bytes, _death(exit_code))
    if exit_code in (None, -signal.SIGKILL, -signal.SIGTERM):
        return unavailable()
    if exit_code != -signal.SIGPROF:
        return breaks_decoder()
    if cpu_s < job.cpu_s:
        return too_large(
            f"Decoding the file takes far more work than its headers say: over {cpu_s:.3g} s of processor time. "
            "Send a file that is written anew, or a smaller one."
        )
    return too_large(
        f"Decoding the file takes more than {job.cpu_s:g} s of processor time. Send a shorter or smaller file."
    )


def _death(exit_code: int | None) -> str:
    if exit_code is None:
        return "with the fork server"
    return signal.strsignal(-exit_code) or f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
