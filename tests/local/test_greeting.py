"""What `make up` prints when the stack is ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.local.greeting import try_lines
from tests.local.test_options import options


@pytest.mark.parametrize(
    ("url", "changes", "line"),
    [
        ("http://127.0.0.1:8901", {}, '.venv/bin/antiphon chat "Who are you?"'),
        (
            "http://127.0.0.1:9000",
            {"api_key": "sk-a key"},
            "ANTIPHON_API_KEY='sk-a key' .venv/bin/antiphon chat \"Who are you?\" --url http://127.0.0.1:9000",
        ),
        ("http://127.0.0.1:8901", {"served_name": "Some-Captioner"}, ".venv/bin/antiphon models"),
    ],
)
def test_the_clients_command_works_as_it_stands(url: str, changes: dict[str, str], line: str, tmp_path: Path) -> None:
    first, second = try_lines(url, options(tmp_path, **changes))
    assert first == f"try:   {line}"
    assert second.startswith("or:    curl ")
    assert url in second
