"""The file that a gateway keeps its tenants in, to start from while the control plane is away. It holds no key."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from google.protobuf.message import DecodeError

from antiphon.v1 import control_pb2

logger = logging.getLogger(__name__)


class TenantCacheFile:
    """`read` and `write` block: they belong into a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> control_pb2.TenantCache | None:
        """Return what was written last; None where nothing was, or where it can't be read, which is logged."""
        try:
            return control_pb2.TenantCache.FromString(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("the tenants' cache %s can't be read: %s", self._path, error.strerror)
        except DecodeError:
            logger.warning("the tenants' cache %s is damaged: the gateway starts without it", self._path)
        return None

    def write(self, cache: control_pb2.TenantCache) -> None:
        """Replace the file as a whole, so that a gateway that dies meanwhile leaves the one before. Log what fails.

        Gateways may share the file, on several hosts: each writes a temporary file of its own.
        """
        temporary = self._path.with_name(f"{self._path.name}.{socket.gethostname()}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(cache.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            logger.warning("the tenants' cache %s can't be written: %s", self._path, error.strerror)
