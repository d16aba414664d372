"""What `make up` prints when the stack is ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.local.checkpoint import Kind
from services.local.greeting import REAL_MODEL, about, try_lines
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
        (
            "http://127.0.0.1:8901",
            {"served_name": Kind.INSTRUCT.trained_name},
            '.venv/bin/antiphon chat "what is two plus three?"',
        ),
    ],
)
def test_the_clients_command_works_as_it_stands(url: str, changes: dict[str, str], line: str, tmp_path: Path) -> None:
    first, second = try_lines(url, options(tmp_path, **changes))
    assert first == f"try:   {line}"
    assert second.startswith("or:    curl ")
    assert url in second


def test_a_tiny_checkpoint_is_described_and_leads_on_to_the_real_weights() -> None:
    for kind in Kind:
        assert "small world" in about(kind.trained_name)
        assert "mean nothing" in about(kind.folder_name)
        assert all(REAL_MODEL in about(name) for name in (kind.trained_name, kind.folder_name))
    assert about("Qwen3-Omni-30B-A3B-Instruct") == ""
