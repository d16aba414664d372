"""Resource limits: memory over what the libraries take, sizes and numbers of files, no core dumps."""

from __future__ import annotations

import resource
from pathlib import Path

# Of all decoders together; counted only within a user namespace of their own. A film takes three or four threads.
_MOST_THREADS = 512
_MOST_FILES = 16
# Thread stacks, and what earlier jobs of the same owner left in the heap.
_SLACK_BYTES = 64 << 20
_base_data_bytes = 0


def note_base() -> None:
    """Remember how much private memory this process and those that it forks have mapped before a job."""
    global _base_data_bytes  # of the process, as its limits are
    _base_data_bytes = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def allow_data(memory_bytes: int) -> None:
    """Allow this process `memory_bytes` of private memory over its base, until the next call."""
    most = _base_data_bytes + _SLACK_BYTES + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def enter(base_bytes: int, memory_bytes: int, *, count_threads: bool) -> None:
    """Bound this process for good. `base_bytes`: what it has mapped before its first job."""
    bounds = {
        resource.RLIMIT_AS: base_bytes + memory_bytes,
        resource.RLIMIT_FSIZE: memory_bytes,
        resource.RLIMIT_NOFILE: _MOST_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if count_threads:  # else the limit counts all processes of this user on the machine
        bounds[resource.RLIMIT_NPROC] = _MOST_THREADS
    for kind, most in bounds.items():
        resource.setrlimit(kind, (most, most))
