"""An HTTP server that answers as a test tells it to, with OpenAI's wire forms."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MODEL = "some-omni"


@dataclass
class Reply:
    """`hangs`: its body stays open until the client leaves. `breaks`: it ends before its announced length."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    hangs: bool = False
    breaks: bool = False


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


def json_reply(body: Mapping[str, Any], status: int = 200, **headers: str) -> Reply:
    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(body).encode(), status, named)


def refusal(status: int, message: str, code: str, **headers: str) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return json_reply({"error": error}, status, x_request_id="req-1", **headers)


def events(*chunks: Mapping[str, Any], done: bool = True, hangs: bool = False) -> Reply:
    lines = [": keep-alive\n\n", *(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks)]
    body = "".join([*lines, "data: [DONE]\n\n" if done else ""])
    return Reply(body.encode(), headers={"content-type": "text/event-stream"}, hangs=hangs)


def chat_chunks(*texts: str, finish_reason: str | None = "stop") -> list[dict[str, Any]]:
    """Return the chunks of a streamed answer; without a `finish_reason` it has no end."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": each, "finish_reason": None}]} for each in deltas
    ]
    if finish_reason:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
        chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(texts)}})
    return chunks


def answers(*texts: str) -> Reply:
    return events(*chat_chunks(*texts))


class ApiServer:
    """Answers each POST with the next of `replies`, and each GET of a path in `gets` with the next of its replies, the
    last of them again and again; any other GET with `models`. Records every POST."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = [{"id": MODEL, "object": "model"}]
        self.replies: list[Reply] = []
        self.gets: dict[str, list[Reply]] = {}
        self.requests: list[Request] = []
        self.left = threading.Event()
        """Set when a client closed the connection of a reply that hangs."""
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                replies = served.gets.get(self.path, [json_reply({"object": "list", "data": served.models})])
                self._send(replies.pop(0) if len(replies) > 1 else replies[0])

            def do_POST(self) -> None:
                served.requests.append(
                    Request(self.path, {k.lower(): v for k, v in self.headers.items()}, self._body())
                )
                reply = served.replies.pop(0)
                self._send(reply)
                if reply.hangs:
                    self.close_connection = True
                    self.connection.settimeout(60)
                    if self.connection.recv(1) == b"":
                        served.left.set()

            def _body(self) -> bytes:
                if length := self.headers.get("content-length"):
                    return self.rfile.read(int(length))
                body = b""  # chunked
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if not reply.hangs:
                    self.send_header("content-length", str(len(reply.body) + reply.breaks))
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(reply.body)
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def will(self, *replies: Reply) -> None:
        self.replies += replies

    def asked(self) -> Iterable[dict[str, Any]]:
        """Return the JSON bodies of the requests, in order."""
        return [request.json for request in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
