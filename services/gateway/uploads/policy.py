"""Upload policies: what a key's holder may upload, signed, so that the upload itself shows no key.

All gateways sign with what they share, the control plane's token, and no gateway keeps a policy.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from services.gateway.turn.intent import Principal

VALID_S = 300
"""How long a policy may be used, as long as DashScope's."""
_LABEL = b"antiphon upload policy v1"


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """`folder`: what the names of all files begin with. `max_bytes`: of one file."""

    tenant: str
    key_id: str
    model: str
    folder: str
    max_bytes: int
    expires_unix_s: int


class Policies:
    """Makes and checks policies. `secret`: what all gateways share, and nobody else knows."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(secret, _LABEL, "sha256")
        self._clock = clock

    def new(self, principal: Principal, model: str, max_bytes: int) -> UploadPolicy:
        """Return a policy for a folder that no other has. Its name begins with the time in milliseconds, as the ids of
        files do: both sort by it."""
        now_s = self._clock()
        folder = f"{int(now_s * 1000):012x}{secrets.token_hex(10)}"
        return UploadPolicy(principal.tenant, principal.key_id, model, folder, max_bytes, int(now_s) + VALID_S)

    def signed(self, policy: UploadPolicy) -> tuple[str, str]:
        """Return the policy as its holder shows it, and its signature: both base64."""
        encoded = base64.b64encode(json.dumps(asdict(policy), separators=(",", ":")).encode())
        return encoded.decode(), self._signature(encoded).decode()

    def verified(self, encoded: str, signature: str) -> UploadPolicy | None:
        """Return what was signed; None = it was not signed here. It may have expired."""
        text = encoded.encode()
        if not hmac.compare_digest(signature.encode(), self._signature(text)):
            return None
        content: dict[str, Any] = json.loads(base64.b64decode(text))
        return UploadPolicy(**content)

    def has_expired(self, policy: UploadPolicy) -> bool:
        return policy.expires_unix_s <= self._clock()

    def _signature(self, encoded: bytes) -> bytes:
        return base64.b64encode(hmac.digest(self._key, encoded, "sha256"))
