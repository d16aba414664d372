"""Decoders in a pod where the container runtime's own seccomp profile refuses namespaces, as RuntimeDefault does."""

import ctypes
import errno
import struct

from services.preprocess.decoding.isolation import linux
from tests.preprocess.taken_over.decoder import main
from tests.preprocess.taken_over.escapes import UNSHARE


def refuse_unshare() -> None:
    program = struct.pack("=HBBI", 0x20, 0, 0, 0)  # load the call's number
    program += struct.pack("=HBBI", 0x15, 0, 1, UNSHARE)
    program += struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | errno.EPERM)
    program += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # everything else is allowed
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    linux.refuse_new_privileges()
    linux.prctl(linux.PR_SET_SECCOMP, 2, Program(len(program) // 8, ctypes.addressof(code)))


refuse_unshare()
main(10_001)
