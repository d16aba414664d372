"""Kept responses and digests of requests."""

from __future__ import annotations

import random

import pytest

from services.common.errors import BadInput
from services.gateway.idempotency.keys import check_key
from services.gateway.idempotency.response import KeptResponse, RequestDigest, decoded, kept_headers


@pytest.mark.parametrize("body", [b"", b"\n", b'{"a":"\xc3\xa4"}\n', bytes(range(256)) * 9, None])
def test_a_response_is_decoded_as_it_was(body: bytes | None) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-odd", b"\xff\x80")]
    response = KeptResponse("digest", 200, headers, body)
    assert decoded(response.encoded()) == response


def test_headers_of_the_moment_are_not_kept() -> None:
    headers = [(b"x-ratelimit-remaining-tokens", b"5"), (b"x-request-id", b"req"), (b"content-length", b"3")]
    assert kept_headers(headers) == [(b"content-length", b"3")]


def digest(body: bytes, *, boundary: bytes = b"", path: str = "/v1/a", seed: int | None = None) -> str:
    of, at = RequestDigest(path, boundary), 0
    cuts = random.Random(seed)
    while at < len(body):
        step = len(body) if seed is None else cuts.randint(1, 9)
        of.add(body[at : at + step])
        at += step
    return of.finished()


@pytest.mark.parametrize("seed", range(20))
def test_the_digest_does_not_depend_on_how_the_body_came(seed: int) -> None:
    assert digest(b"some body" * 9, seed=seed) == digest(b"some body" * 9)
    form = form_with(b"XbXXb")
    assert digest(form, boundary=b"XbXXb", seed=seed) == digest(form, boundary=b"XbXXb")


def test_the_digest_is_of_path_and_body() -> None:
    assert digest(b"a") != digest(b"b")
    assert digest(b"a") != digest(b"a", path="/v1/b")
    assert digest(b"") != digest(b"a")


@pytest.mark.parametrize("seed", range(20))
def test_forms_differ_in_more_than_their_boundary(seed: int) -> None:
    one, other = b"boundary-1", b"another-boundary-22"
    assert digest(form_with(one), boundary=one, seed=seed) == digest(form_with(other), boundary=other)
    assert digest(form_with(one), boundary=one) != digest(form_with(other, b"other"), boundary=other)


def form_with(boundary: bytes, data: bytes = b"\r\nfile\0--\r\n") -> bytes:
    part = b'--%b\r\ncontent-disposition: form-data; name="file"\r\n\r\n%b\r\n' % (boundary, data)
    return part * 2 + b"--%b--\r\n" % boundary


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb", "a\nb"])
def test_what_can_be_no_key_is_refused(key: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_key(key)
    assert caught.value.param == "Idempotency-Key"


@pytest.mark.parametrize("key", ["a", "x" * 255, "stainless-python-retry-5f0c8f0e", "with space"])
def test_any_short_text_is_a_key(key: str) -> None:
    check_key(key)
