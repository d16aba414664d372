"""The committed renders are up to date, so a review shows every change of the charts."""

from __future__ import annotations

import difflib

import pytest

from tests.helm.golden import FOLDER, PROFILES, wanted


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {path.stem: text for path, text in wanted().items()}


@pytest.mark.parametrize("name", PROFILES)
def test_a_render_is_as_committed(name: str, texts: dict[str, str]) -> None:
    path = FOLDER / f"{name}.yaml"
    committed = path.read_text() if path.exists() else ""
    difference = "".join(
        difflib.unified_diff(
            committed.splitlines(keepends=True), texts[name].splitlines(keepends=True), "committed", "rendered"
        )
    )
    assert not difference, f"{difference}\nif that is meant: make golden"


def test_no_stale_render_is_committed() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PROFILES)


def test_they_are_small_enough_to_be_read() -> None:
    for path in FOLDER.iterdir():
        assert len(path.read_text().splitlines()) <= 500, path.name
