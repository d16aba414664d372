"""make train says what it does, and its stages exist."""

import fcntl
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

import training.__main__
from services.local.checkpoint.kinds import Kind
from training.files import replace_folder, save_arrays
from training.place import place
from training.stages import STEPS, Stage


def test_stages_have_names_of_their_own() -> None:
    names = [stage.name for step in STEPS for stage in step]
    assert len(set(names)) == len(names)


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


def test_a_second_training_in_the_same_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTIPHON_TRAINING", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["training", "--planned", "talker"])
    monkeypatch.setattr(training.__main__, "PACKAGES", ())
    monkeypatch.setattr(training.__main__, "PROGRAMS", {})
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert training.__main__.main() == 1
    assert f"Another training writes to {tmp_path}" in capsys.readouterr().err


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTIPHON_TRAINING", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["training", "--planned", "talker"])
    monkeypatch.setattr(training.__main__, "PROGRAMS", {"no-such-program": "its-package"})
    assert training.__main__.main() == 1
    assert "apt-get install its-package" in capsys.readouterr().err


def test_a_stage_that_fails_gives_its_status() -> None:
    assert training.__main__.run([Stage("gone", "training.gone", "", 0)], 1) == 1


def test_stages_have_ended_when_they_are_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would go on to write while the next training begins."""
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if self not in started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.__main__.run([Stage("gone", "training.gone", "", 0)], 1)
    assert [process.returncode is not None for process in started] == [True]


def test_placed_checkpoints_replace_what_is_there(tmp_path: Path) -> None:
    name = Kind.CAPTIONER.trained_name
    made, tree = tmp_path / "made", tmp_path / "tree"
    for folder, file in ((made / name, "new.json"), (tree / name, "old.json")):
        folder.mkdir(parents=True)
        (folder / file).write_text("{}")
    (tree / "README.md").touch()
    with pytest.raises(FileNotFoundError):
        place(Kind.CAPTIONER, tmp_path / "gone", tree)
    assert [path.name for path in (tree / name).iterdir()] == ["old.json"]
    assert place(Kind.CAPTIONER, made, tree) == tree / name
    assert [path.name for path in (tree / name).iterdir()] == ["new.json"]
    assert {path.name for path in tree.iterdir()} == {name, "README.md"}


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


@pytest.mark.parametrize("stage", [stage for step in STEPS for stage in step], ids=lambda stage: stage.name)
def test_every_stage_takes_one_thread_unless_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *arguments = stage.command.split()
    monkeypatch.setattr("sys.argv", [module, *arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(module).main()
    assert ended.value.code == 0
    assert "--threads THREADS of torch (default: 1)" in " ".join(capsys.readouterr().out.split())
