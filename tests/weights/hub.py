"""A hub with ModelScope's two endpoints over real HTTP. Tests tell it how to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "Qwen/Tiny"


@dataclass
class Hub:
    files: dict[str, bytes]
    sums: dict[str, str] = field(default_factory=dict[str, str])
    """What the list says where it is not the truth; "" = nothing."""
    token: str = ""
    cut_after: list[int] = field(default_factory=list[int])
    """Each request for a file ends after so many bytes, as long as there are such numbers."""
    statuses: list[int] = field(default_factory=list[int])
    """Each request for a file is answered so, as long as there are such numbers."""
    no_ranges: bool = False
    wrong_ranges: bool = False
    redirects: bool = False
    extra: bytes = b""
    """Follows each file."""
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(file, range) of each request for a file."""
    endpoint: str = ""

    def listing(self) -> bytes:
        entries: list[object] = [{"Path": "folder", "Type": "tree"}]
        entries += [
            {
                "Path": path,
                "Name": path.rpartition("/")[2],
                "Type": "blob",
                "Size": len(content),
                "Sha256": self.sums.get(path, hashlib.sha256(content).hexdigest()),
            }
            for path, content in self.files.items()
        ]
        return json.dumps({"Code": 200, "Data": {"Files": entries}, "Message": "", "Success": True}).encode()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            if url.path.startswith("/page"):
                self._bytes(200, b"<html>")
                return
            if url.path.startswith("/store"):
                self._file(query["FilePath"])
                return
            if hub.token and self.headers.get("authorization") != f"Bearer {hub.token}":
                self._json(401, {"Code": 10010205001, "Message": "login first"})
            elif url.path != f"/api/v1/models/{REPOSITORY}/repo" + ("" if "FilePath" in query else "/files"):
                self._json(404, {"Code": 10010205001, "Message": "record not found"})
            elif query["Revision"] != "master":
                self._json(404, {"Code": 10010205001, "Message": f"no revision {query['Revision']}"})
            elif "FilePath" not in query:
                self._bytes(200, hub.listing())
            elif hub.redirects:
                self.send_response(302)
                port = urlsplit(hub.endpoint).port
                self.send_header("location", f"http://localhost:{port}/store?{url.query}")
                self.send_header("content-length", "0")
                self.end_headers()
            else:
                self._file(query["FilePath"])

        def _json(self, status: int, body: object) -> None:
            self._bytes(status, json.dumps(body).encode())

        def _bytes(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            cut = hub.cut_after.pop(0) if hub.cut_after and "accept_ranges" in headers else None
            self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

        def _file(self, path: str) -> None:
            asked = self.headers.get("range", "")
            hub.asked.append((path, asked))
            if "authorization" in self.headers or "cookie" in self.headers:
                assert self.path.startswith("/api/"), "the token went to the store"
            if hub.statuses:
                self._bytes(hub.statuses.pop(0), b"")
                return
            content = hub.files[path] + hub.extra
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            if match is None or hub.no_ranges:
                self._bytes(200, content, accept_ranges="bytes")
                return
            start = int(match[1]) - hub.wrong_ranges
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._bytes(206, content[start:], accept_ranges="bytes", content_range=span)

    return Handler


@contextmanager
def running(hub: Hub) -> Generator[Hub]:
    """Serve on a free port, and set `hub.endpoint`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = False
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
