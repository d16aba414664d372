"""Makes keys. A key is shown once; what is kept is its SHA-256, which nobody reverses: a key has 256 random bits."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

from services.common.key_prefixes import PREFIX_CHARS

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


@dataclass(frozen=True, slots=True)
class NewKey:
    """`secret` is what its owner gets: kind, public part and secret part, "ap_ab3dk2mn7q_…"."""

    secret: str = field(repr=False)
    prefix: str
    sha256: str


def new_key(kind: str) -> NewKey:
    prefix = f"{kind}_" + "".join(secrets.choice(_ALPHABET) for _ in range(PREFIX_CHARS))
    secret = f"{prefix}_{secrets.token_hex(32)}"
    return NewKey(secret, prefix, sha256_of(secret))


def sha256_of(key: str) -> str:
    """Return 64 hexadecimal digits. The gateway hashes keys in the same way (services/gateway/auth.py)."""
    return hashlib.sha256(key.encode()).hexdigest()
