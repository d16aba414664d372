"""Runs the stages in their order: `python -m training [STAGE …]`; each goes on where it stopped.

A stage that is finished ends at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

STAGES = {
    "corpus": "training.speech.corpus",
    "codec": "training.speech.fit_codec",
    "code2wav": "training.speech.train_code2wav",
    "talker": "training.speech.train_talker",
}
"""The module that is each stage."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; without one, all")
    wanted: list[str] = parser.parse_args().stages
    if unknown := set(wanted) - set(STAGES):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    for stage in wanted or STAGES:
        began = time.monotonic()
        print(f"stage {stage}", flush=True)
        # A process each: what one stage holds in memory does not burden the next.
        if code := subprocess.run((sys.executable, "-m", STAGES[stage])).returncode:
            return code
        print(f"stage {stage}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
