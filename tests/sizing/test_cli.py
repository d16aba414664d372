"""`antiphon size` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from services.sizing.cli import main
from services.sizing.table import NOTE, TALKER_NOTE
from tests.helm.render import component, of_kind, template

ASKED = ["size", "--model", "instruct", "--video-s", "60", "--gpu", "h100-80gb", "--streams", "50"]


def test_an_answer_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ASKED) == 0
    said = capsys.readouterr().out
    for part in (
        "107.74",
        "95.76",
        "8.66",
        "counted",
        "measured",
        "documented",
        "derived",
        "assumed",
        "2 × h100-80gb",
        NOTE,
        TALKER_NOTE,
        "thinker     8",
        "1 × h100-80gb",
    ):
        assert part in said


def test_a_film_that_fits_the_memory_and_not_the_model_length_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ASKED) == 0
    said = capsys.readouterr().out
    assert "a film of 60 s takes up to 46080 tokens" in said
    assert "beyond 42 s" in said
    assert main(["size", "--video-s", "30", "--gpu", "h100-80gb"]) == 0
    assert "a film of" not in capsys.readouterr().out


def test_a_gpu_too_small_is_refused_with_the_nearest_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", "--gpu", "l4-24gb", "--gpus-per-node", "2"]) == 1
    told = capsys.readouterr().err
    assert "68.74" in told
    assert "The nearest that can: 4 × l4-24gb" in told
    assert NOTE in told


def test_a_thinker_on_several_nodes_is_explained_and_installs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "values.yaml"
    asked = ["size", "--model", "thinking", "--gpu", "l4-24gb", "--gpus-per-node", "2", "--max-nodes", "4"]
    assert main([*asked, "--values", str(path)]) == 0
    said = capsys.readouterr().out
    assert "2 on each of 2 nodes, as stages of a pipeline: less 3 GiB (derived)" in said
    assert "thinker     1 (4 × l4-24gb)" in said
    ended = template("helm-4", "antiphon", yaml.safe_load(path.read_text()))
    assert ended.returncode == 0, ended.stderr
    (group,) = of_kind(tuple(item for item in yaml.safe_load_all(ended.stdout) if item), "LeaderWorkerSet")
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2


@pytest.mark.parametrize(
    "wrong", [["--gpu", "tpu"], ["--streams", "-1"], ["--video-s", "45"], ["--audio-minutes", "inf"]]
)
def test_a_wrong_argument_is_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["size", "--gpu", "h100-80gb", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_the_captioner_is_marked_as_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", "--model", "captioner", "--gpu", "a100-80gb"]) == 0
    assert "an estimate" in capsys.readouterr().out


def test_a_loads_speech_and_text_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED[:-1], "1", "--audio-minutes", "6000", "--tokens-per-s", "3000"]) == 0
    said = capsys.readouterr().out
    assert "thinker     12 (24 × h100-80gb)" in said  # 3000 / (6 · 53 · 0.8)
    assert "talker      1 " in said
    assert main([*ASKED[:-1], "1", "--audio-minutes", "6000", "--talker-gpu", "h100-80gb-mig-1g.20gb"]) == 0
    assert "talker      2 (2 × h100-80gb-mig-1g.20gb)" in capsys.readouterr().out  # 100 s a second / (67 · 0.8)


def test_a_slice_is_mentioned_and_used_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "values.yaml"
    assert main([*ASKED, "--values", str(path)]) == 0
    assert "a slice would do where MIG is on: --talker-gpu h100-80gb-mig-1g.20gb" in capsys.readouterr().out
    assert "mig" not in path.read_text()
    assert main([*ASKED, "--talker-gpu", "h100-80gb-mig-1g.20gb", "--values", str(path)]) == 0
    assert yaml.safe_load(path.read_text())["global"]["sizing"]["talkerGpu"] == "h100-80gb-mig-1g.20gb"


@pytest.mark.parametrize("model", ["instruct", "thinking", "captioner"])
def test_the_values_file_installs(tmp_path: Path, model: str) -> None:
    path = tmp_path / "build" / "values.yaml"
    assert main(["size", "--model", model, "--gpu", "a100-80gb", "--streams", "50", "--values", str(path)]) == 0
    values = yaml.safe_load(path.read_text())
    ended = template("helm-4", "antiphon", values)
    assert ended.returncode == 0, ended.stderr
    found = tuple(item for item in yaml.safe_load_all(ended.stdout) if item)
    replicas = {component(item): item["spec"].get("replicas") for item in of_kind(found, "Deployment")}
    assert replicas["thinker"] == values["thinker"]["replicas"] == 8
    assert ("talker" in replicas) == (model == "instruct")
