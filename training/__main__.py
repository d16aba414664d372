"""Runs the stages in their order: `python -m training [STAGE …]`; each goes on where it stopped.

Stages that don't need each other run side by side, each on one core: so small a model gains nothing by two threads, and
beside other processes threads that wait for each other cost many times the work. A stage that is finished ends at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

STAGES: tuple[dict[str, str], ...] = (
    {"corpus": "training.speech.corpus", "asked": "training.mind.speech"},
    {
        "codec": "training.speech.fit_codec",
        "vision": "training.mind.vision_tower",
        "audio": "training.mind.audio_tower",
        "imagined": "training.mind.thinker --media imagined",
    },
    {
        "code2wav": "training.speech.train_code2wav",
        "talker": "training.speech.train_talker",
        "bank": "training.mind.bank",
    },
    {"thinker": "training.mind.thinker --media bank"},
    {"captioner": "training.mind.thinker --media bank --captioner", "joint": "training.mind.joint"},
    {f"export-{kind}": f"training.mind.export {kind}" for kind in ("instruct", "thinking", "captioner")},
)
"""The module of each stage and its arguments; those of one step run side by side."""


def run(modules: list[str]) -> int:
    """Run modules side by side; return the first exit status that is not 0."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen((sys.executable, "-m", *module.split()), env=one_thread) for module in modules]
    statuses = [process.wait() for process in running]
    return next((status for status in statuses if status), 0)


def main() -> int:
    known = [name for step in STAGES for name in step]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(known)}; without one, all")
    wanted: list[str] = parser.parse_args().stages or known
    if unknown := set(wanted) - set(known):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for step in STAGES:
        if status := run([module for name, module in step.items() if name in wanted]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
