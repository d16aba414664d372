"""What the service and a decoder process say to each other: one message each way, bulk data in anonymous files.

Messages are JSON and arrays are plain bytes: a decoder's memory may be an attacker's, so what it sends is only data.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import mmap
import os
import socket
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from services.preprocess.limits import MediaLimits
from services.preprocess.media.sampling import VideoOptions

MAX_MESSAGE_BYTES = 256 << 10
_FIXED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
Array = npt.NDArray[Any]
JobKind = Literal["image", "audio", "video", "frames", "recording"]
_FILMS = ("video", "frames")


@dataclass(frozen=True, slots=True)
class Job:
    """What to decode. `files` has one entry but for a video that is given as images. `owner` names the request of the
    tenant: no decoder sees the files of two. `cpu_s` is the most that any job may take. A recording comes out in pieces
    of at most `piece_s`."""

    kind: JobKind
    files: tuple[bytes | bytearray, ...]
    limits: MediaLimits
    video: VideoOptions | None = None
    with_sound: bool = False
    cpu_s: float = 60.0
    tenant: str = ""
    owner: str = ""
    piece_s: float = 0.0

    @property
    def media(self) -> tuple[bytes, ...]:
        """The files as bytes, which they are in a decoder."""
        return tuple(file if isinstance(file, bytes) else bytes(file) for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.files))

    @property
    def is_film(self) -> bool:
        return self.kind in _FILMS

    @property
    def video_options(self) -> VideoOptions:
        return self.video or VideoOptions(factor=32)

    def header(self) -> bytes:
        """What a decoder needs to know, but for the bytes of the files."""
        return json.dumps(
            {
                "kind": self.kind,
                "lengths": [len(file) for file in self.files],
                "limits": dataclasses.asdict(self.limits),
                "video": dataclasses.asdict(self.video) if self.video else None,
                "with_sound": self.with_sound,
                "piece_s": self.piece_s,
            }
        ).encode()

    @classmethod
    def from_header(cls, header: bytes, fd: int) -> Job:
        """The job that `header` describes, its files read from `fd`."""
        fields = json.loads(header)
        video = fields.pop("video")
        return cls(
            files=read_files(fd, fields.pop("lengths")),
            limits=MediaLimits(**fields.pop("limits")),
            video=VideoOptions(**video) if video else None,
            **fields,
        )


class Frames:
    """A video's frames, uint8 [frames, 3, height, width], in the file that their decoder wrote. They are read a few at
    a time, so that the service never holds all of them."""

    def __init__(self, fd: int, shape: tuple[int, ...]) -> None:
        """Keep a duplicate of `fd`."""
        self._shape = shape
        self._fd = os.dup(fd)
        weakref.finalize(self, os.close, self._fd)  # a thread may still read when its request is gone

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> Array:
        """Return frames `start` to `stop` in memory of their own. Raise ValueError where the file is shorter."""
        stop = min(stop, len(self))
        array = np.empty((stop - start, *self.shape[1:]), np.uint8)
        _read_into(self._fd, array, start * math.prod(self.shape[1:]))
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.read(0, len(self))


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came out: `main` is pixels or samples, `sound` a video's track.

    Image: uint8 [height, width, 3]. Audio: float32 [samples] at 16 kHz. Video: uint8 [frames, 3, height, width], with
    `fps` as VideoPlan means it; the service has them as Frames.
    """

    main: Array | Frames
    sound: Array | None = None
    fps: float = 0.0

    @property
    def array(self) -> Array:
        """`main` of an image or a sound."""
        assert isinstance(self.main, np.ndarray)  # noqa: S101  # for the type checker
        return self.main

    @property
    def frames(self) -> Frames:
        """`main` of a video that the service has."""
        assert isinstance(self.main, Frames)  # noqa: S101  # for the type checker
        return self.main

    @property
    def sound_bytes(self) -> int:
        """Of the samples of a sound, or of a video's track."""
        if self.sound is not None:
            return self.sound.nbytes
        return self.main.nbytes if isinstance(self.main, np.ndarray) and self.main.ndim == 1 else 0

    @property
    def arrays(self) -> list[Array]:
        return [np.asarray(self.main)] if self.sound is None else [np.asarray(self.main), self.sound]


def describe(decoded: Decoded) -> dict[str, Any]:
    """The reply to a job that went well; `decoded.arrays` follow one another in the job's file of results."""
    arrays = [{"dtype": str(array.dtype), "shape": list(array.shape)} for array in decoded.arrays]
    return {"arrays": arrays, "fps": decoded.fps}


NO_PIECE: Mapping[str, Any] = {"arrays": [], "fps": 0.0}
"""The reply after a recording's last piece."""


def read_decoded(reply: Mapping[str, Any], kind: JobKind, fd: int, most_bytes: int) -> Decoded:
    """Return the arrays that a decoder wrote into `fd`: a video's as Frames, others in memory of their own. Raise
    ValueError, KeyError or TypeError where the reply describes no result of such a job, or more than `most_bytes`.

    They are copied. A mapping would hold the memory of all arrays for as long as one is used, and change under its
    reader.
    """
    described = [(str(one["dtype"]), tuple(int(n) for n in one["shape"])) for one in reply["arrays"]]
    fps = float(reply["fps"])
    if not _is_result(kind, described) or not math.isfinite(fps) or (kind in _FILMS and fps <= 0):
        raise ValueError("the decoder's answer describes no result")
    sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in described]
    if sum(sizes) > min(most_bytes, os.fstat(fd).st_size):
        raise ValueError("the decoder's answer does not fit its file")
    arrays: list[Array | Frames] = []
    start = 0
    for (dtype, shape), size in zip(described, sizes, strict=True):
        if kind in _FILMS and not arrays:
            arrays.append(Frames(fd, shape))
        else:
            array = np.empty(shape, dtype)
            _read_into(fd, array, start)
            arrays.append(array)
        start += size
    sound = arrays[1] if len(arrays) > 1 else None
    return Decoded(arrays[0], sound if isinstance(sound, np.ndarray) else None, fps)


def _is_result(kind: JobKind, described: Sequence[tuple[str, tuple[int, ...]]]) -> bool:
    if any(n < 1 for _, shape in described for n in shape):
        return False
    forms = [(dtype, len(shape)) for dtype, shape in described]
    if kind == "image":
        return forms == [("uint8", 3)] and described[0][1][2] == 3
    if kind in ("audio", "recording"):
        return forms == [("float32", 1)]
    return forms in ([("uint8", 4)], [("uint8", 4), ("float32", 1)]) and described[0][1][1] == 3


def _read_into(fd: int, array: Array, start: int) -> int:
    """Fill `array` from byte `start` of `fd`; return how many bytes that took."""
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], start + done)
        if not got:
            raise ValueError("the decoder's answer is shorter than its file was")
        done += got
    return done


def read_files(fd: int, lengths: Sequence[int]) -> tuple[bytes, ...]:
    """Return the files that follow one another in an anonymous file."""
    files: list[bytes] = []
    start = 0
    for length in lengths:
        files.append(os.pread(fd, length, start))
        if len(files[-1]) != length:
            raise ValueError("the job is shorter than its file was")
        start += length
    return tuple(files)


def job_file(files: Sequence[bytes | bytearray]) -> int:
    """Return the descriptor of a memfd that contains `files` one after another, and that nobody can change."""
    fd = os.memfd_create("media", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for file in files:
            _write(fd, memoryview(file))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED_SIZE | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def result_file(most_bytes: int) -> int:
    """Return the descriptor of a memfd for a job's results. Its size is fixed: nobody who reads it can meet its end."""
    fd = os.memfd_create("decoded", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, most_bytes)  # it takes memory only where something is written
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED_SIZE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_frames(fd: int, shape: tuple[int, int, int, int]) -> Array:
    """Return an array for a video's frames within a result file, from its beginning. Raise MemoryError where it is too
    small."""
    size = math.prod(shape)
    if size > os.lseek(fd, 0, os.SEEK_END):
        raise MemoryError
    return np.frombuffer(mmap.mmap(fd, size), np.uint8).reshape(shape)


def write_arrays(arrays: Sequence[Array], fd: int, start: int = 0) -> None:
    """Write `arrays` one after another from byte `start` of a result file."""
    os.lseek(fd, start, os.SEEK_SET)
    for array in arrays:
        _write(fd, memoryview(np.ascontiguousarray(array).data).cast("B"))


def _write(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]


def send(channel: socket.socket, header: bytes, fds: Sequence[int] = ()) -> None:
    if len(header) > MAX_MESSAGE_BYTES:
        raise ValueError("a message between service and decoder is too long")
    socket.send_fds(channel, [header], fds)


def receive(channel: socket.socket, most_fds: int = 1) -> tuple[bytes, list[int]]:
    """Return the next message and the descriptors with it; an empty message where the other side is gone.

    Raise OSError (EMFILE) where this process has no file handle left for a descriptor.
    """
    header, fds, flags, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, most_fds)
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return header, fds
