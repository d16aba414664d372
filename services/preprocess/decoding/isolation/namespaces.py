"""The fork server's own user and namespaces, which its decoders share. Entered once, while it has one thread."""

from __future__ import annotations

import os
import signal

from services.preprocess.decoding.isolation import linux
from services.preprocess.decoding.isolation.layers import Granted, Layer, attempt

# The user of decoders where the service is root: nobody's, and within the ids of a container without root.
DECODER_UID = 65_533

_FLAGS = {
    Layer.NETWORK_NAMESPACE: linux.CLONE_NEWNET,
    Layer.IPC_NAMESPACE: linux.CLONE_NEWIPC,
    Layer.PID_NAMESPACE: linux.CLONE_NEWPID,
    Layer.MOUNT_NAMESPACE: linux.CLONE_NEWNS,
}


def enter(wanted: frozenset[Layer]) -> Granted:
    """Enter the wanted namespaces, as far as they are granted. A process without privileges needs `user` for the
    others.

    With a process namespace this returns in its first process, a child; the caller waits in here for its end.
    """
    granted: Granted = {}
    if Layer.USER in wanted:
        granted[Layer.USER] = _own_user()
    for layer, flag in _FLAGS.items():
        if layer in wanted:
            granted[layer] = attempt(lambda flag=flag: linux.unshare(flag))
    if granted.get(Layer.PID_NAMESPACE) == "":
        _become_first_process()
    if granted.get(Layer.MOUNT_NAMESPACE) == "":
        granted[Layer.MOUNT_NAMESPACE] = attempt(_leave_all_files)
    return granted


def _own_user() -> str:
    """Become another user where this process is root, and enter a user namespace. One of the two is enough."""
    changed = os.geteuid() == 0 and not attempt(_change_user)
    refused = attempt(lambda: linux.unshare(linux.CLONE_NEWUSER))
    return "" if changed else refused


def _change_user() -> None:
    os.setgroups([])
    os.setresgid(DECODER_UID, DECODER_UID, DECODER_UID)
    os.setresuid(DECODER_UID, DECODER_UID, DECODER_UID)


def _become_first_process() -> None:
    """Return in a child, the first process of the new namespace: the kernel ends all others there with it."""
    child = os.fork()
    if child == 0:
        return
    linux.hide_memory()
    linux.end_with_parent(signal.SIGKILL)
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    _, status = os.waitpid(child, 0)
    os._exit(abs(os.waitstatus_to_exitcode(status)))


def _leave_all_files() -> None:
    """Make an empty, read-only file system the root. It needs a mount point: /proc is everywhere."""
    shut = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount(None, b"/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(b"none", b"/proc", b"tmpfs", shut, b"size=4k,nr_inodes=2,mode=0555")
    os.chdir("/proc")
    linux.pivot_root(b".", b".")
    linux.unmount(b".", linux.MNT_DETACH)
    os.chdir("/")
    linux.mount(None, b"/", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | shut)
