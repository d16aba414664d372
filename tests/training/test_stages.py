"""make train says what it does, and its stages exist."""

from importlib.util import find_spec
from pathlib import Path

import pytest

import training.__main__
from training.files import replace_folder, save_arrays
from training.stages import STEPS


def test_every_stage_is_a_module() -> None:
    stages = [stage for step in STEPS for stage in step]
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        assert find_spec(stage.command.split()[0]), stage


def test_the_plan_says_what_runs_and_where_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANTIPHON_TRAINING", str(folder))
    monkeypatch.setattr("sys.argv", ["training", "--plan", "talker"])
    assert training.__main__.main() == 0
    said = capsys.readouterr().out
    assert "talker" in said
    assert "joint" not in said
    assert str(folder) in said
    assert not folder.exists()


def test_an_unknown_stage_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["training", "walker"])
    with pytest.raises(SystemExit):
        training.__main__.main()
    assert "there is no stage walker" in capsys.readouterr().err


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"

    def write(path: Path) -> None:
        path.mkdir()
        save_arrays(path / "0.npz", numbers=[1, 2])

    def fail(path: Path) -> None:
        path.mkdir()
        raise RuntimeError("stopped")

    replace_folder(folder, write)
    with pytest.raises(RuntimeError, match="stopped"):
        replace_folder(folder, fail)
    replace_folder(folder, write)
    assert [path.name for path in folder.iterdir()] == ["0.npz"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
