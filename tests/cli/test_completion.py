"""Scripts with which shells complete the command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from services.cli.completion import SHELLS
from tests.cli.conftest import Antiphon

COMPLETE = """
source {script}
COMP_WORDS=({words} "{begun}") COMP_CWORD={index}
complete -p antiphon >/dev/null
_shtab_antiphon antiphon "{begun}" "{before}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(antiphon: Antiphon, shell: str, tmp_path: Path) -> None:
    script = antiphon("completion", shell).out
    for word in ("chat", "speak", "transcribe", "caption", "models", "max-tokens", "admin"):
        assert word in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


@pytest.mark.parametrize(
    ("words", "begun", "found"),
    [
        (["antiphon"], "tr", ["transcribe"]),
        (["antiphon", "chat"], "--max", ["--max-tokens"]),
        (["antiphon", "chat", "--audio"], "question.", ["question.wav"]),
        (["antiphon", "admin", "keys"], "ro", ["rotate"]),
    ],
)
def test_bash_completes_commands_options_and_files(
    antiphon: Antiphon, words: list[str], begun: str, found: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text(antiphon("completion", "bash").out)
    (tmp_path / "question.wav").touch()
    asked = COMPLETE.format(script=script, words=" ".join(words), begun=begun, index=len(words), before=words[-1])
    ran = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == found
    assert ran.stderr == ""
