"""A decoder process: takes one job at a time from its socket, decodes under limits, answers, until the socket closes.

Started by `pool` as `python -m services.preprocess.decoding.worker <fd> <memory bytes>`. It holds no secrets, opens no
files and speaks to nobody but its parent; a crash or a kill costs the one job.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import torch

from services.preprocess.decoding.jobs import Decoded, Job, anonymous_file, encode_decoded, receive, send
from services.preprocess.media.audio import decode_audio
from services.preprocess.media.images import decode_image
from services.preprocess.media.problems import MediaProblem, too_large
from services.preprocess.media.sampling import VideoOptions
from services.preprocess.media.video import DecodedVideo, decode_frames, decode_video

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def confine(memory_bytes: int) -> None:
    """Bounds this process for good: memory over what its libraries have mapped, no core files, no new privileges, and
    no life after the service's."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_cpu(seconds: float) -> None:
    """From now on, `seconds` of processor time, all threads together; then the kernel ends the process (SIGPROF). 0 =
    as much as it takes."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def decode(job: Job) -> Decoded:
    """Does the job. Raises MediaProblem."""
    if job.kind == "image":
        return Decoded(decode_image(job.files[0], job.limits))
    if job.kind == "audio":
        return Decoded(decode_audio(job.files[0], job.limits))
    options = job.video or VideoOptions(factor=32)
    if job.kind == "frames":
        return _as_decoded(decode_frames(job.files, options, job.limits))
    return _as_decoded(decode_video(job.files[0], options, job.limits, with_sound=job.with_sound))


def _as_decoded(video: DecodedVideo) -> Decoded:
    return Decoded(video.frames, video.sound, video.fps)


def answer(header: bytes, fd: int) -> tuple[bytes, int | None]:
    """The reply to one message: a header, and a descriptor where there are arrays."""
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) if os.fstat(fd).st_size else contextlib.nullcontext(b"") as data:
            job = Job.from_header(header, memoryview(data))
        allow_cpu(job.cpu_s)
        described, arrays = encode_decoded(decode(job))
        return described, anonymous_file(arrays)
    except MediaProblem as problem:
        return json.dumps({"code": problem.code, "message": problem.message}).encode(), None
    except MemoryError:
        return _out_of_memory()
    except RuntimeError as error:  # torch's allocator
        if "alloc" in str(error):
            return _out_of_memory()
        raise


def _out_of_memory() -> tuple[bytes, None]:
    problem = too_large("decoding needs more memory than is allowed")
    return json.dumps({"code": problem.code, "message": problem.message}).encode(), None


def silence_libraries() -> None:
    """What C libraries print of a client's file goes nowhere; Python's own tracebacks still go to standard error."""
    own = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = os.fdopen(own, "w", buffering=1)


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    torch.set_num_threads(1)
    silence_libraries()
    confine(int(sys.argv[2]))
    send(channel, b"ready", None)
    while True:
        header, fd = receive(channel)
        if not header or fd is None:
            return
        try:
            reply, result = answer(header, fd)
        finally:
            allow_cpu(0)
            os.close(fd)
        send(channel, reply, result)
        if result is not None:
            os.close(result)


if __name__ == "__main__":
    main()
