"""What a decoder process does: take one job at a time from its socket, decode it under limits, answer.

`forkserver` forks it. It holds no secrets, opens no files and speaks to nobody but the service; a crash or a kill costs
the one job.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from services.preprocess.decoding.jobs import Decoded, Job, anonymous_file, encode_decoded, receive, send
from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.media.audio import decode_audio
from services.preprocess.media.images import decode_image
from services.preprocess.media.problems import MediaProblem, breaks_decoder, too_large
from services.preprocess.media.sampling import VideoOptions
from services.preprocess.media.video import DecodedVideo, decode_frames, decode_video


def run(channel: socket.socket, memory_bytes: int) -> NoReturn:
    """Serve jobs until the service closes the socket; then end the process."""
    status = 1
    try:
        confine(memory_bytes)
        serve(channel)
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def confine(memory_bytes: int) -> None:
    """Bound this process for good: memory over what its libraries have mapped, no core files, and the first to be
    killed where the machine's memory runs out."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # some sandboxes do not let a process write it
        Path("/proc/self/oom_score_adj").write_text("1000")


def serve(channel: socket.socket) -> None:
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


def answer(header: bytes, fd: int) -> tuple[bytes, int | None]:
    """Return the reply to one job: a header, and a descriptor where there are arrays."""
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) if os.fstat(fd).st_size else contextlib.nullcontext(b"") as data:
            job = Job.from_header(header, memoryview(data))
        allow_cpu(job.cpu_s)
        described, arrays = encode_decoded(decode(job))
        return described, anonymous_file(arrays)
    except MediaProblem as problem:
        return _refusal(problem), None
    except Exception as error:
        return _failure(error), None


def decode(job: Job) -> Decoded:
    """Do the job. Raise MediaProblem where its files cannot be used."""
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


def _failure(error: Exception) -> bytes:
    """The reply for an error that is no MediaProblem: out of the job's memory, out of the machine's, or a file that the
    decoding code does not expect. One line of log each."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "alloc" in str(error)):  # torch's
        return _refusal(too_large("Decoding the file needs more memory than is allowed. Send a smaller file."))
    sys.stderr.write(f"a decoder met {type(error).__name__} in {_place(error)}\n")
    if is_exhaustion(error):
        return json.dumps({"exhausted": True}).encode()
    return _refusal(breaks_decoder())


def _place(error: Exception) -> str:
    """File and line where `error` was raised; never what it says, which may hold a client's data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"


def _refusal(problem: MediaProblem) -> bytes:
    return json.dumps({"code": problem.code, "message": problem.message}).encode()


def allow_cpu(seconds: float) -> None:
    """Allow `seconds` of processor time from now on, all threads together; then the kernel ends the process (SIGPROF).
    0 = as much as it takes."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
