"""Reads coverage's JSON from standard input. Ends with status 1 where too few branches were taken.

coverage's own `fail_under` counts lines and branches together.
"""

from __future__ import annotations

import json
import sys

LEAST_PERCENT = 95.0


def main() -> None:
    totals = json.load(sys.stdin)["totals"]
    percent = 100 * totals["covered_branches"] / totals["num_branches"]
    if percent < LEAST_PERCENT:
        sys.exit(f"{percent:.1f} % of the branches were taken: at least {LEAST_PERCENT:g} % must be")
    sys.stdout.write(f"{percent:.1f} % of {totals['num_branches']} branches were taken\n")


if __name__ == "__main__":
    main()
