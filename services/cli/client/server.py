"""A server that speaks OpenAI's API, as the client's commands use it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Any, Self

import httpx

from services.cli.client.errors import ClientError, UsageError
from services.cli.client.retry import retry_delay_s

DEFAULT_URL = "http://127.0.0.1:8901"
RETRIES = 3
# An answer that is not streamed may take minutes until its first byte.
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
Send = Callable[[], httpx.Request]


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --url, --key and --retries."""
    group = parser.add_argument_group("server")
    group.add_argument("--url", metavar="URL", help=f"default: the variable ANTIPHON_URL, else {DEFAULT_URL}")
    group.add_argument(
        "--key", metavar="KEY",
        help="API key; better given as ANTIPHON_API_KEY, since every user of the machine can read a command line",
    )  # fmt: skip
    group.add_argument(
        "--retries", metavar="N", type=int, default=RETRIES,
        help="how often a request is sent again where a busy server names a time for it (default %(default)s)",
    )  # fmt: skip


def open_server(options: argparse.Namespace) -> Server:
    """Return the server that the options or the environment name. Raise UsageError."""
    url = options.url or os.environ.get("ANTIPHON_URL") or DEFAULT_URL
    key = options.key if options.key is not None else os.environ.get("ANTIPHON_API_KEY", "")
    return Server(url, key.strip(), options.retries)


class Server:
    """Used with `with`. `url` may end with /v1 or not. Without a key, none is sent.

    Its methods raise ClientError with the server's own message and code where the request is refused.
    """

    def __init__(self, url: str, key: str = "", retries: int = RETRIES) -> None:
        """Raise UsageError where the URL or the key can be none."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"'{url}' is not a server's URL. Write it as http://host:port in --url or ANTIPHON_URL.")
        if not (key.isascii() and key.isprintable()):
            raise UsageError("The API key has characters that no key has. Check --key or ANTIPHON_API_KEY.")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._retries = retries
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=f"{self._url}/v1", headers=headers, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """Return the served models: `id` and, of Antiphon, `kind`, `max_model_len`, `voices` and `default_voice`."""
        return self.whole(self.get("/models"), "data")["data"]

    def model(self, given: str | None, *, captioner: bool = False) -> str:
        """Return the name that was given, or else that of the only model that captions sounds, or that does not.

        Raise UsageError where there is none, or several.
        """
        if given:
            return given
        models = self.models()
        names = [model["id"] for model in models]
        fitting = [model["id"] for model in models if _captions(model) == captioner]
        if len(fitting) == 1:
            return fitting[0]
        names = ", ".join(fitting or names) or "none now"
        many = "several models" if fitting else f"no model that {'captions sounds' if captioner else 'chats'}"
        raise UsageError(f"{self._url} serves {many}. Name one with --model: {names}.")

    def default_voice(self, model: str) -> str | None:
        """Return the voice that a model has of its own, where the server tells it."""
        return next((each.get("default_voice") for each in self.models() if each["id"] == model), None)

    def get(self, path: str) -> Send:
        """Return what builds a request without a body."""
        return lambda: self._http.build_request("GET", path)

    def post_json(self, path: str, body: Mapping[str, Any]) -> Send:
        """Return what builds a request with this body."""
        return lambda: self._http.build_request("POST", path, json=body)

    def post_form(self, path: str, fields: Mapping[str, str], file: tuple[str, IO[bytes], str]) -> Send:
        """Return what builds a multipart request with a part `file`: its name, the open file and its media type."""
        return lambda: self._http.build_request("POST", path, data=fields, files={"file": file})

    def whole(self, send: Send, field: str) -> dict[str, Any]:
        """Return the JSON object of an answer, which has this field."""
        with self.stream(send) as response:
            return self.read_object(response, field)

    @contextmanager
    def stream(self, send: Send) -> Generator[httpx.Response]:
        """Send, and again where the server asks for it; yield the answer, whose body is read in the block.

        Leaving the block closes the connection, so that the server ends an answer that nobody reads.
        """
        answered = False
        try:
            response = self._send(send)
            answered = True
            try:
                yield response
            finally:
                response.close()
        except httpx.HTTPError as error:
            kind = type(error).__name__
            if answered:
                raise ClientError(f"{self._url} broke the answer off ({kind}).") from None
            raise ClientError(
                f"{self._url} does not answer ({kind}). Name a running server with --url or ANTIPHON_URL."
            ) from None

    def read_object(self, response: httpx.Response, field: str) -> dict[str, Any]:
        """Return the JSON object that is the whole body, and has this field."""
        response.read()
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or field not in body:
            path = response.url.path
            raise ClientError(f"{self._url} does not speak OpenAI's API: its answer to {path} has no '{field}'.")
        return body

    def _send(self, send: Send) -> httpx.Response:
        for tries_left in reversed(range(max(0, self._retries) + 1)):
            response = self._http.send(send(), stream=True)
            if response.is_success:
                return response
            response.read()
            response.close()
            delay_s = retry_delay_s(response.status_code, response.headers) if tries_left else None
            if delay_s is None:
                raise self._refusal(response)
            sys.stderr.write(f"{self._refusal(response)} Trying again in {delay_s:g} s …\n")
            time.sleep(delay_s)
        raise AssertionError("the last try returns or raises")

    def _refusal(self, response: httpx.Response) -> ClientError:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
            phrase = f"{response.status_code} {response.reason_phrase}".strip()
            return ClientError(f"{self._url} answered {phrase} to {response.url.path}. Is it an Antiphon server?")
        told = error_text(body["error"], response.headers.get("x-request-id"))
        hint = " Set ANTIPHON_API_KEY or --key." if response.status_code == HTTPStatus.UNAUTHORIZED else ""
        return ClientError(told + hint)


def _captions(model: Mapping[str, Any]) -> bool:
    """Whether it is a captioner, as it tells itself; of other servers than Antiphon's the name decides."""
    return "captioner" in str(model.get("kind", model["id"])).lower()


def error_text(error: Mapping[str, Any], request_id: str | None) -> str:
    """Return the message of OpenAI's error object, with its code and the id by which the operator finds the request."""
    marks = [f"code {error.get('code') or error.get('type')}", *([f"request {request_id}"] if request_id else [])]
    return f"{error.get('message')} ({', '.join(marks)})"
