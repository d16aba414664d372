"""Parses the URL of the queues' store. It does not import redis-py, so that a URL can be checked without it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

Kind = Literal["server", "sentinel", "cluster"]

SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
"""{scheme: (kind of server, whether it uses TLS)}."""

_LAST_PORT = 65535


@dataclass(frozen=True)
class RedisUrl:
    """`nodes`, `master` and `database` are a sentinel's or a cluster's; redis-py reads one server's URL by itself."""

    url: str = field(repr=False)
    """It may hold a password."""
    kind: Kind
    tls: bool
    username: str = ""
    password: str = field(default="", repr=False)
    nodes: tuple[tuple[str, int], ...] = ()
    """(host, port) of the sentinels, or of some of the cluster's nodes."""
    master: str = ""
    database: int = 0
    query: str = field(default="", repr=False)

    @property
    def credentials(self) -> dict[str, str]:
        """The user name and password as redis-py's constructors take them; empty where there are none."""
        return {name: value for name in ("username", "password") if (value := getattr(self, name))}

    @property
    def place(self) -> str:
        """The URL without what is secret in it, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def parse_redis_url(url: str, username: str = "", password: str = "") -> RedisUrl:
    """Parse one of these:

    - `redis://`, `rediss://` (TLS), `unix://`: one server, as redis-py reads it;
    - `redis+sentinel://[user:password@]host:port[,host:port…]/master[/database][?ssl_ca_certs=…]`, and
      `rediss+sentinel://`: the master of that name, asked of sentinels. User, password and TLS are used for the servers
      and for the sentinels;
    - `redis+cluster://[user:password@]host:port[,host:port…][?ssl_ca_certs=…]`, and `rediss+cluster://`: a Redis
      Cluster, by any of its nodes.

    `username` and `password` stand in place of those in the URL, and may hold any character.

    Raise ValueError for any other URL, and where a password is given twice. The message quotes nothing that may be a
    password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # whose message quotes the URL
        raise ValueError("it is no URL") from None
    if parts.scheme not in SCHEMES or f"{parts.scheme}://" not in url.lower():  # redis:6379 would be this machine's
        raise ValueError(f"wanted a URL that begins with one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    _check_userinfo(parts)
    kind, tls = SCHEMES[parts.scheme]
    who, _, places = parts.netloc.rpartition("@")
    if who and (username or password):
        raise ValueError("it holds a user or password, and another is given beside it: keep one of the two")
    if kind == "server":
        _check_port(parts)
        # redis-py reads user and password of a server's URL by itself.
        return RedisUrl(url, kind, tls, username, password)
    if not (username or password):
        username, _, password = (unquote(part) for part in who.partition(":"))
    nodes = [_node(place) for place in places.split(",")]
    form = f"wanted {parts.scheme}://[user:password@]host:port[,host:port…]"
    master, database = "", "0"
    if kind == "sentinel":
        form += "/master[/database]"
        master, _, database = parts.path.removeprefix("/").partition("/")
        if not master or not (database or "0").isdecimal():
            raise ValueError(form)
    elif parts.path.strip("/") not in ("", "0"):
        raise ValueError(f"a Redis Cluster has only database 0, not {parts.path.strip('/')}")
    known = tuple(node for node in nodes if node is not None)
    if len(known) < len(nodes):
        raise ValueError(form)
    return RedisUrl(url, kind, tls, username, password, known, master, int(database or 0), parts.query)


_ESCAPES = "in a password write / ? # @ % as %2F %3F %23 %40 %25, or give it apart from the URL"


def _check_userinfo(parts: SplitResult) -> None:
    """Raise ValueError for a password whose own characters cut it short, or change it."""
    who, at, _ = parts.netloc.rpartition("@")
    options, at_in_query, _ = parts.query.partition("@")
    cut = "@" in parts.path or "@" in parts.fragment or (at_in_query and "=" not in options)
    if cut and not at and parts.scheme != "unix":
        raise ValueError(f"its user and password end too early: {_ESCAPES}")
    if _BARE_PERCENT.search(who):
        raise ValueError(f"its user or password holds a % without two hexadecimal digits: {_ESCAPES}")


_BARE_PERCENT = re.compile("%(?![0-9a-fA-F]{2})")


def _check_port(parts: SplitResult) -> None:
    try:
        _ = parts.port
    except ValueError:  # whose message quotes what stands there: of a password with a slash, its beginning
        raise ValueError(f"its port is no number up to {_LAST_PORT} ({_ESCAPES})") from None


def _node(place: str) -> tuple[str, int] | None:
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    return (host, int(port)) if host and port.isdecimal() and int(port) <= _LAST_PORT else None
