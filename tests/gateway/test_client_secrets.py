"""Client secrets: what they are signed with, what they may be used for, and when they end."""

from __future__ import annotations

import random

import pytest

from services.common.errors import AntiphonError, BadInput, Forbidden, NotFound, Unauthenticated, Unavailable
from services.common.key_scopes import Scope
from services.gateway.auth import ApiKey, ApiKeys
from services.gateway.client_secrets import MAX_CHARS, key_named_by, name_of_key, signed, verified
from services.gateway.turn.intent import ClientSecret
from tests.gateway.test_auth import sha256

NOW_S, ROOT = 1_000_000.0, b"what all gateways share"
WEB = ClientSecret(Scope.REALTIME, int(NOW_S) + 600, "tiny-instruct", '{"instructions": "Whisper."}')


def key(secret: str, number: int = 1, **fields: object) -> ApiKey:
    return ApiKey(bytes.fromhex(sha256(secret)), "acme.prod", f"key_{number}", **fields)  # pyright: ignore[reportArgumentType]


def keys_of(*keys: ApiKey, root: bytes = ROOT, api_key: str = "", now_s: float = NOW_S) -> ApiKeys:
    """Return a gateway's keys."""
    made = ApiKeys(api_key, needed=True, secret_root=root, clock=lambda: now_s)
    made.replace(keys)
    return made


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def code_of(keys: ApiKeys, secret: str) -> str:
    """Return the code of the error that a secret gets."""
    with pytest.raises(AntiphonError) as refused:
        keys.principal_of(bearer(secret))
    return refused.value.code


def test_every_gateway_with_the_same_root_takes_a_secret_at_once() -> None:
    value, made = keys_of(key("a")).make_secret(b"Bearer a", WEB)
    assert value.startswith("ek_")
    assert made == WEB
    principal = keys_of(key("b", 2), key("a")).principal_of(bearer(value))
    assert (principal.tenant, principal.key_id, principal.secret) == ("acme.prod", "key_1", WEB)
    assert principal.scopes == {Scope.REALTIME}
    assert principal.only_model == "tiny-instruct"


def test_no_two_secrets_are_the_same() -> None:
    keys = keys_of(key("a"))
    assert len({keys.make_secret(b"Bearer a", WEB)[0] for _ in range(20)}) == 20


def test_a_secret_ends_with_its_time_and_with_its_key() -> None:
    value, _ = keys_of(key("a")).make_secret(b"Bearer a", WEB)
    assert code_of(keys_of(key("a"), now_s=NOW_S + 600), value) == "expired_client_secret"
    keys = keys_of(key("a"), key("b", 2))
    keys.change((), [bytes.fromhex(sha256("a"))])
    assert code_of(keys, value) == "invalid_api_key"
    assert code_of(keys_of(key("a", expires_unix_s=NOW_S)), value) == "expired_api_key"
    keys.replace([key("a")])
    assert keys.principal_of(bearer(value)).key_id == "key_1"


def test_a_secret_never_outlives_its_key() -> None:
    _, made = keys_of(key("a", expires_unix_s=NOW_S + 60.9)).make_secret(b"Bearer a", WEB)
    assert made.expires_unix_s == NOW_S + 60


def test_a_secret_whose_key_may_not_have_come_yet_is_not_called_wrong() -> None:
    value, _ = keys_of(key("a")).make_secret(b"Bearer a", WEB)
    keys = keys_of()
    keys.good_until_unix_s = NOW_S
    with pytest.raises(Unavailable):
        keys.principal_of(bearer(value))
    keys = keys_of(key("a"))
    keys.good_until_unix_s = NOW_S
    with pytest.raises(Unavailable):
        keys.principal_of(bearer(value))


def test_a_secret_makes_no_secrets_and_a_key_none_beyond_its_scopes() -> None:
    keys = keys_of(key("a", scopes=frozenset({Scope.REALTIME})))
    value, _ = keys.make_secret(b"Bearer a", WEB)
    with pytest.raises(Forbidden) as refused:
        keys.make_secret(bearer(value), WEB)
    assert refused.value.code == "api_key_needed"
    with pytest.raises(Forbidden) as refused:
        keys.make_secret(b"Bearer a", ClientSecret(Scope.CHAT, WEB.expires_unix_s))
    assert refused.value.code == "missing_scope"
    with pytest.raises(Unauthenticated):
        keys.make_secret(b"Bearer wrong", WEB)


def test_neither_a_hash_nor_another_key_signs() -> None:
    a, b = bytes.fromhex(sha256("a")), bytes.fromhex(sha256("b"))
    keys = keys_of(key("a"), key("b", 2))
    for forged in (signed(WEB, a, b""), signed(WEB, a, a), signed(WEB, a, b"b"), signed(WEB, b"x" * 32, ROOT)):
        assert code_of(keys, forged) == "invalid_api_key"
    assert verified(signed(WEB, a, ROOT).encode(), b, ROOT) is None


def test_the_static_key_signs_for_itself_alone() -> None:
    """Its holder knows it, and must not sign for another tenant."""
    keys = keys_of(key("a"), root=b"", api_key="own")
    value, _ = keys.make_secret(b"Bearer own", WEB)
    assert keys_of(root=b"", api_key="own").principal_of(bearer(value)).tenant == "default"
    assert code_of(keys_of(root=b"", api_key="new"), value) == "invalid_api_key"
    with pytest.raises(NotFound) as refused:
        keys.make_secret(b"Bearer a", WEB)
    assert refused.value.code == "client_secrets_not_served"
    assert "ANTIPHON_CLIENT_SECRET_SIGNING_KEY" in refused.value.message
    assert code_of(keys, signed(WEB, bytes.fromhex(sha256("a")), b"own")) == "invalid_api_key"


def test_without_keys_a_secret_has_its_settings_and_its_end() -> None:
    keys = ApiKeys("", clock=lambda: NOW_S)
    keys.replace(())
    value, _ = keys.make_secret(None, WEB)
    assert keys.principal_of(bearer(value)).secret == WEB
    assert keys.principal_of(b"Bearer none").secret is None
    assert code_of(ApiKeys("", clock=lambda: NOW_S + 600), value) == "expired_client_secret"


def test_any_change_of_a_secret_is_noticed() -> None:
    keys = keys_of(key("a"))
    value, _ = keys.make_secret(b"Bearer a", WEB)
    draw = random.Random(0)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for at in range(3, len(value) - 1):  # the last one has bits that mean nothing
        changed = value[:at] + draw.choice(alphabet.replace(value[at], "")) + value[at + 1 :]
        assert code_of(keys, changed) == "invalid_api_key"
    for wrong in ("ek_", "ek_a", value[:-5], value + "AAAA", value + "!", "ek_" + "A" * 2 * MAX_CHARS, "ek_\xff"):
        assert code_of(keys, wrong) == "invalid_api_key"


def test_a_secret_tells_nothing_of_its_key_s_hash() -> None:
    digest = bytes.fromhex(sha256("a"))
    name = name_of_key(digest)
    assert key_named_by(signed(WEB, digest, ROOT).encode()) == name
    assert digest[:4] not in name


def test_settings_that_are_too_long_are_refused() -> None:
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=8000))
    with pytest.raises(BadInput) as refused:
        keys_of(key("a")).make_secret(b"Bearer a", ClientSecret(Scope.REALTIME, WEB.expires_unix_s, session=noise))
    assert (refused.value.code, refused.value.param) == ("client_secret_too_long", "session")
    english = '{"instructions": "' + "You are a waiter. Take the order, and repeat it at the end. " * 200 + '"}'
    longer = ClientSecret(Scope.REALTIME, WEB.expires_unix_s, session=english)
    value, _ = keys_of(key("a")).make_secret(b"Bearer a", longer)
    assert keys_of(key("a")).principal_of(bearer(value)).secret == longer
