"""What the service and a decoder process say to each other: one message each way, bulk data in anonymous files.

Messages are JSON and arrays are plain bytes: a decoder's memory may be an attacker's, so what it sends is only data.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from services.preprocess.limits import MediaLimits
from services.preprocess.media.sampling import VideoOptions

MAX_MESSAGE_BYTES = 256 << 10
DTYPES = {"uint8": np.uint8, "float32": np.float32}
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Job:
    """What to decode. `files` has one entry but for a video that is given as images."""

    kind: Literal["image", "audio", "video", "frames"]
    files: tuple[bytes, ...]
    limits: MediaLimits
    video: VideoOptions | None = None
    with_sound: bool = False
    cpu_s: float = 60.0

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.files))

    def header(self) -> bytes:
        """Everything but the bytes of the files."""
        return json.dumps(
            {
                "kind": self.kind,
                "lengths": [len(file) for file in self.files],
                "limits": dataclasses.asdict(self.limits),
                "video": dataclasses.asdict(self.video) if self.video else None,
                "with_sound": self.with_sound,
                "cpu_s": self.cpu_s,
            }
        ).encode()

    @classmethod
    def from_header(cls, header: bytes, data: memoryview) -> Job:
        """The job that `header` describes, its files cut out of `data`."""
        fields = json.loads(header)
        files: list[bytes] = []
        start = 0
        for length in fields.pop("lengths"):
            files.append(bytes(data[start : start + length]))
            start += length
        video = fields.pop("video")
        return cls(
            files=tuple(files),
            limits=MediaLimits(**fields.pop("limits")),
            video=VideoOptions(**video) if video else None,
            **fields,
        )


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came out: `main` is pixels or samples, `sound` a video's track.

    Image: uint8 [height, width, 3]. Audio: float32 [samples] at 16 kHz. Video: uint8 [frames, 3, height, width], with
    `fps` as VideoPlan means it.
    """

    main: Array
    sound: Array | None = None
    fps: float = 0.0


def encode_decoded(decoded: Decoded) -> tuple[bytes, list[Array]]:
    """The header that describes `decoded`, and the arrays that follow it in the anonymous file."""
    arrays = [decoded.main] if decoded.sound is None else [decoded.main, decoded.sound]
    shapes = [{"dtype": str(array.dtype), "shape": list(array.shape)} for array in arrays]
    return json.dumps({"arrays": shapes, "fps": decoded.fps}).encode(), arrays


def decode_decoded(header: dict[str, Any], fd: int) -> Decoded:
    """Return the arrays that a decoder wrote into `fd`, each in memory of its own. Raise ValueError where the header
    does not describe the file.

    They are copied. A mapping would hold a file handle, and the memory of all arrays for as long as one is used.
    """
    size = os.fstat(fd).st_size
    described = [(np.dtype(DTYPES[one["dtype"]]), tuple(int(n) for n in one["shape"])) for one in header["arrays"]]
    if not 1 <= len(described) <= 2 or any(n < 0 for _, shape in described for n in shape):
        raise ValueError("the decoder's answer describes no arrays")
    if sum(dtype.itemsize * math.prod(shape) for dtype, shape in described) > size:
        raise ValueError("the decoder's answer does not fit its file")
    arrays: list[Array] = []
    start = 0
    for dtype, shape in described:
        array = np.empty(shape, dtype)
        start += _read_into(fd, array, start)
        arrays.append(array)
    return Decoded(arrays[0], arrays[1] if len(arrays) > 1 else None, float(header["fps"]))


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


def anonymous_file(chunks: Sequence[bytes | Array]) -> int:
    """Return the descriptor of a memfd that contains `chunks` one after another."""
    fd = os.memfd_create("media", os.MFD_CLOEXEC)
    try:
        for chunk in chunks:
            view = memoryview(chunk if isinstance(chunk, bytes) else np.ascontiguousarray(chunk).data).cast("B")
            while view:
                view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def send(channel: socket.socket, header: bytes, fd: int | None) -> None:
    if len(header) > MAX_MESSAGE_BYTES:
        raise ValueError("a message between service and decoder is too long")
    socket.send_fds(channel, [header], [] if fd is None else [fd])


def receive(channel: socket.socket) -> tuple[bytes, int | None]:
    """Return the next message and the descriptor with it; an empty message where the other side is gone.

    Raise OSError (EMFILE) where this process has no file handle left for the descriptor.
    """
    header, fds, flags, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 1)
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return header, (fds[0] if fds else None)
