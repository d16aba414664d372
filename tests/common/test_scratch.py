"""Scratch folders that end with their process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from services.common.scratch import ScratchDir, remove_orphans

HOLD = (
    "import sys, signal; from pathlib import Path; from services.common.scratch import ScratchDir\n"
    "held = ScratchDir(Path(sys.argv[1])); (held.path / 'socket').touch(); print(held.path, flush=True); signal.pause()"
)


def test_a_killed_processs_folder_is_removed_at_a_later_start(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with ScratchDir(tmp_path) as beside:
            assert left.exists()  # its process still runs
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert (left / "socket").exists()
            with ScratchDir(tmp_path) as after:
                assert not left.exists()
                assert set(tmp_path.iterdir()) == {beside.path, after.path}
    assert list(tmp_path.iterdir()) == []


def test_other_folders_stay(tmp_path: Path) -> None:
    (tmp_path / "antiphon-of-another-kind").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/owner").touch()
    (tmp_path / "antiphon-link").symlink_to(tmp_path / "elsewhere")
    remove_orphans(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "elsewhere/owner").exists()
