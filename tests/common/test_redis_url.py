"""Accepted URLs of the queues' Redis, and the errors for all others."""

from __future__ import annotations

import pytest

from services.common.redis_url import SCHEMES, parse_redis_url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://localhost", "redis://localhost"),
        ("rediss://me:s3cret@r:6379/1?ssl_ca_certs=/ca.crt", "rediss://r:6379/1"),
        ("redis://r:6379?password=s3cret", "redis://r:6379"),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock"),
        ("redis+sentinel://:s3cret@a:1,b:2/queues/3", "redis+sentinel://a:1,b:2/queues/3"),
        ("rediss+cluster://:s3cret@a:1,b:2", "rediss+cluster://a:1,b:2"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, place: str) -> None:
    parsed = parse_redis_url(url)
    assert parsed.place == place
    assert "s3cret" not in repr(parsed)


def test_the_parts_of_a_sentinels_url() -> None:
    parsed = parse_redis_url("rediss+sentinel://me:p%40ss@a:1,[::1]:2/queues/3?ssl_ca_certs=/ca.crt")
    assert (parsed.kind, parsed.tls, parsed.username, parsed.password) == ("sentinel", True, "me", "p@ss")
    assert (parsed.nodes, parsed.master, parsed.database) == ((("a", 1), ("::1", 2)), "queues", 3)
    assert parsed.query == "ssl_ca_certs=/ca.crt"


@pytest.mark.parametrize("url", ["", "foo://x", "redis", "redis:6379", "127.0.0.1:6379", "http://r:6379"])
def test_an_unknown_scheme_error_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ValueError, match="wanted a URL") as refused:
        parse_redis_url(url)
    assert all(f"{scheme}://" in str(refused.value) for scheme in SCHEMES)


@pytest.mark.parametrize(
    "url",
    [
        "redis://r:99999/0",
        "redis://:s3cret/1@r:6379",
        "redis://[s3cret",
        "foo://:s3cret@r",
        "redis+sentinel://:s3cret@r/queues",
        "redis+sentinel://:s3cret@r:99999/queues",
        "redis+cluster://:s3cret@r",
    ],
)
def test_errors_never_quote_a_secret(url: str) -> None:
    with pytest.raises(ValueError, match=r"wanted|port|URL") as refused:
        parse_redis_url(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("character", "/?#%")
@pytest.mark.parametrize("scheme", ["redis", "rediss+sentinel", "redis+cluster"])
def test_an_error_says_how_to_encode_a_password(scheme: str, character: str) -> None:
    for secret in (f"12{character}zz", f"s3{character}zz"):
        with pytest.raises(ValueError, match=r"apart from the URL|wanted") as refused:
            parse_redis_url(f"{scheme}://:{secret}@r:6379/queues")
        assert "zz" not in str(refused.value)


@pytest.mark.parametrize("url", ["unix:///run/a@b.sock", "redis://r:6379?ssl_ca_certs=/a@b", "redis://:a+b=c@d@r:1"])
def test_other_characters_are_left_alone(url: str) -> None:
    assert parse_redis_url(url).url == url


ANY = "a/b+c=d@e%f#g?h:i%41 j"


@pytest.mark.parametrize("url", ["redis://r:1/0", "redis+sentinel://a:1/queues", "redis+cluster://a:1"])
def test_a_password_beside_the_url_may_hold_any_character(url: str) -> None:
    assert parse_redis_url(url, password=ANY).credentials == {"password": ANY}
    assert parse_redis_url(url, "me", ANY).credentials == {"username": "me", "password": ANY}
    assert "%f#g" not in repr(parse_redis_url(url, "me", ANY))


def test_a_password_in_two_places_is_refused() -> None:
    with pytest.raises(ValueError, match="keep one of the two"):
        parse_redis_url("redis://:s3cret@r:6379", password="other")
