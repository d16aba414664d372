"""Short-lived client secrets of keys. A secret is signed, and no gateway keeps it: all of them can read it at once.

    "ek_" + base64url( version · name of its key · nonce · deflated JSON · MAC )

The key of the MAC is made of the gateways' own secret and the hash of the API key: who reads hashes alone can't sign,
nor can who holds an API key. The content is signed and not encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import struct
import zlib
from typing import Any

from services.common.errors import BadInput
from services.common.key_scopes import Scope
from services.gateway.turn.intent import ClientSecret

PREFIX = b"ek_"
MAX_CHARS = 4096
"""Of a secret. Proxies take header lines of 8 KiB."""
_VERSION = 1
# Version, name of the key, nonce.
_HEAD = struct.Struct(">B12s8s")
_MAC_BYTES = 16
_LABEL = b"antiphon client secret v1\0"


def name_of_key(sha256: bytes) -> bytes:
    """Return what secrets call the key with this hash."""
    return hashlib.sha256(_LABEL + sha256).digest()[:12]


def signed(secret: ClientSecret, key_sha256: bytes, root: bytes) -> str:
    """Return the secret as its holder shows it. Raise BadInput where it gets too long."""
    content = {
        "scope": secret.scope,
        "expires": secret.expires_unix_s,
        "model": secret.model,
        "session": secret.session,
    }
    deflated = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
    body = _HEAD.pack(_VERSION, name_of_key(key_sha256), secrets.token_bytes(8)) + deflated
    token = PREFIX + base64.urlsafe_b64encode(body + _mac(body, key_sha256, root)).rstrip(b"=")
    if len(token) > MAX_CHARS:
        raise BadInput(
            f"The session's settings make a secret of {len(token)} characters, but it may have {MAX_CHARS}. Make the"
            " instructions shorter, or send them in a session.update.",
            param="session",
            code="client_secret_too_long",
        )
    return token.decode()


def key_named_by(token: bytes) -> bytes | None:
    """Return the name of the key that a token claims to be a secret of; None = it is no secret."""
    body = _decoded(token)
    return _HEAD.unpack_from(body)[1] if body is not None and body[0] == _VERSION else None


def verified(token: bytes, key_sha256: bytes, root: bytes) -> ClientSecret | None:
    """Return what the secret is for; None = it was not made of this key with this root. It may have expired."""
    body = _decoded(token)
    if body is None:
        return None
    signed_part, mac = body[:-_MAC_BYTES], body[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(signed_part, key_sha256, root)):
        return None
    content: dict[str, Any] = json.loads(zlib.decompress(signed_part[_HEAD.size :]))
    return ClientSecret(Scope(content["scope"]), content["expires"], content["model"], content["session"])


def _decoded(token: bytes) -> bytes | None:
    if not token.startswith(PREFIX) or len(token) > MAX_CHARS:
        return None
    encoded = token.removeprefix(PREFIX)
    try:
        body = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    return body if len(body) > _HEAD.size + _MAC_BYTES else None


def _mac(body: bytes, key_sha256: bytes, root: bytes) -> bytes:
    key = hmac.digest(root, _LABEL + key_sha256, "sha256")
    return hmac.digest(key, body, "sha256")[:_MAC_BYTES]
