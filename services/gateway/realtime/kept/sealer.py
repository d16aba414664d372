"""Encrypts what is kept of sessions, by a key of the operator's."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_LABEL = b"antiphon realtime session v1\0"
_NONCE_BYTES = 12


class Sealer:
    """AES-256-GCM with a random nonce. The name of a value is authenticated: one can't stand for another."""

    def __init__(self, key: str) -> None:
        self._cipher = AESGCM(hmac.digest(hashlib.sha256(key.encode()).digest(), _LABEL, "sha256"))

    def sealed(self, name: str, value: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, name.encode())

    def opened(self, name: str, sealed: bytes) -> bytes | None:
        """Return the value; None = it was not sealed with this key under this name."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            return None
