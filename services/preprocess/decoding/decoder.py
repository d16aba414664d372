"""What a decoder process does: take one job at a time from its socket, read its headers and say how much work it is,
wait for the word to go on, decode it under limits, answer.

`forkserver` forks it. It holds no secrets, opens no files and speaks to nobody but the service; a crash or a kill costs
the one job. `isolation` keeps that true of a decoder that a file has taken over.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import socket
from contextlib import suppress
from typing import NoReturn

from services.preprocess.decoding.isolation import rlimits
from services.preprocess.decoding.isolation.confinement import Confinement
from services.preprocess.decoding.jobs import (
    NO_PIECE,
    Decoded,
    Job,
    describe,
    map_frames,
    receive,
    send,
    write_arrays,
)
from services.preprocess.decoding.price import LOOK_CPU_S
from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.media.audio import audio_pieces, decode_audio
from services.preprocess.media.images import decode_image
from services.preprocess.media.problems import MediaProblem, breaks_decoder, too_large
from services.preprocess.media.video import Allocate, DecodedVideo, decode_frames, decode_video, new_frames
from services.preprocess.media.work import (
    Work,
    work_of_frames,
    work_of_image,
    work_of_recording,
    work_of_sound,
    work_of_video,
)

# While it reads headers. WebP's decoder maps 8 bytes for each pixel at once, which take no memory until it is used;
# FFmpeg decodes a first frame of some films to know them.
LOOK_BYTES = 512 << 20


def run(channel: socket.socket, confinement: Confinement) -> NoReturn:
    """Serve jobs until the service closes the socket; then end the process. Its first message says which layers of
    isolation it has."""
    status = 1
    try:
        send(channel, json.dumps({"layers": confinement.enter_decoder()}).encode())
        serve(channel)
        status = 0
    finally:
        os._exit(status)


def serve(channel: socket.socket) -> None:
    while True:
        header, fds = receive(channel, 2)
        if not header or len(fds) != 2:
            return
        files, result = fds
        allow_cpu(LOOK_CPU_S)
        job, reply = look(header, files)
        allow_cpu(0)
        os.close(files)
        send(channel, json.dumps(reply).encode())
        if job is not None:
            word, _ = receive(channel)
            if not word:
                return
            if job.kind == "recording":
                cut(job, result, channel, **json.loads(word))
            else:
                send(channel, json.dumps(go_on(job, result, **json.loads(word))).encode())
        os.close(result)


def look(header: bytes, files: int) -> tuple[Job | None, dict[str, object]]:
    """Read the headers of a job's files, which are in the descriptor `files`. Return the job and its work, or no job
    and why it is refused."""
    try:
        rlimits.allow_data(os.lseek(files, 0, os.SEEK_END) + LOOK_BYTES)
        job = Job.from_header(header, files)
        return job, {"work": dataclasses.asdict(work_of(job))}
    except Exception as error:
        return None, _failure(error)


def go_on(
    job: Job, result: int, *, cpu_s: float, niceness: int, memory_bytes: int, result_bytes: int
) -> dict[str, object]:
    """Decode within `cpu_s` of processor time and `memory_bytes` beside the files. The arrays, `result_bytes` at most,
    go to the descriptor `result`; the reply describes them."""
    be_nice(niceness)
    allow_cpu(cpu_s)
    try:
        rlimits.allow_data(job.size_bytes + memory_bytes)
        decoded = decode(job, functools.partial(map_frames, result))
        if sum(array.nbytes for array in decoded.arrays) > min(result_bytes, os.lseek(result, 0, os.SEEK_END)):
            return _refusal(_too_much_memory())
        if job.is_film:  # its frames are there
            write_arrays(decoded.arrays[1:], result, decoded.arrays[0].nbytes)
        else:
            write_arrays(decoded.arrays, result)
        return describe(decoded)
    except Exception as error:
        return _failure(error)
    finally:
        allow_cpu(0)


def cut(
    job: Job,
    result: int,
    channel: socket.socket,
    *,
    cpu_s: float,
    niceness: int,
    memory_bytes: int,
    result_bytes: int,  # a piece is never more
) -> None:
    """Decode a recording as `go_on`. Each piece takes the place of the one before in `result`, and has a reply of its
    own; a word of the service asks for the next one."""
    be_nice(niceness)
    allow_cpu(cpu_s)
    try:
        rlimits.allow_data(job.size_bytes + memory_bytes)
        for piece in audio_pieces(job.media[0], job.limits, job.piece_s):
            write_arrays([piece], result)
            send(channel, json.dumps(describe(Decoded(piece))).encode())
            word, _ = receive(channel)
            if not word:  # nobody wants the rest
                return
        send(channel, json.dumps(NO_PIECE).encode())
    except Exception as error:
        send(channel, json.dumps(_failure(error)).encode())
    finally:
        allow_cpu(0)


def be_nice(niceness: int) -> None:
    if niceness:
        with suppress(PermissionError):  # the service itself runs nicer than that
            os.setpriority(os.PRIO_PROCESS, 0, niceness)


def work_of(job: Job) -> Work:
    """Say how much work the job is. Raise MediaProblem where its headers are broken or promise too much."""
    files = job.media
    if job.kind == "image":
        return work_of_image(files[0], job.limits)
    if job.kind == "audio":
        return work_of_sound(files[0], job.limits)
    if job.kind == "recording":
        return work_of_recording(files[0], job.limits, job.piece_s)
    if job.kind == "frames":
        return work_of_frames(files, job.video_options, job.limits)
    return work_of_video(files[0], job.video_options, job.limits, with_sound=job.with_sound)


def decode(job: Job, allocate: Allocate = new_frames) -> Decoded:
    """Do the job; a video's frames go where `allocate` says. Raise MediaProblem where its files cannot be used."""
    files = job.media
    if job.kind == "image":
        return Decoded(decode_image(files[0], job.limits))
    if job.kind == "audio":
        return Decoded(decode_audio(files[0], job.limits))
    if job.kind == "frames":
        return _as_decoded(decode_frames(files, job.video_options, job.limits, allocate))
    options = job.video_options
    return _as_decoded(decode_video(files[0], options, job.limits, with_sound=job.with_sound, allocate=allocate))


def _as_decoded(video: DecodedVideo) -> Decoded:
    return Decoded(video.frames, video.sound, video.fps)


def _failure(error: Exception) -> dict[str, object]:
    """The reply for an error: a MediaProblem, out of the job's memory, out of the machine's, or a file that the
    decoding code does not expect. The service logs what stands under "trouble"."""
    if isinstance(error, MediaProblem):
        return _refusal(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "alloc" in str(error)):  # torch's
        return _refusal(_too_much_memory())
    trouble = {"trouble": f"{type(error).__name__} in {_place(error)}"}
    if is_exhaustion(error):
        return {"exhausted": True, **trouble}
    return {**_refusal(breaks_decoder()), **trouble}


def _place(error: Exception) -> str:
    """File and line where `error` was raised; never what it says, which may hold a client's data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"


def _refusal(problem: MediaProblem) -> dict[str, object]:
    return {"code": problem.code, "message": problem.message}


def _too_much_memory() -> MediaProblem:
    return too_large("Decoding the file needs more memory than is allowed. Send a smaller file.")


def allow_cpu(seconds: float) -> None:
    """Allow `seconds` of processor time from now on, all threads together; then the kernel ends the process (SIGPROF).
    0 = as much as it takes."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
