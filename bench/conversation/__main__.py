"""Hold spoken conversations in real time, and measure how turns are taken.

    python -m bench.conversation [--sessions 1,8,32,64] [--seconds 60] [--json bench/results/conversation.json]

Speakers say recorded prompts over noise: sentences, single words, sentences that interrupt an answer, and sounds of a
listener (beginnings of words, coughs) that must not. What they say and when follows from the seed and not from what
they hear. One gateway is a process; the stages are scripted and real gRPC servers with a fixed pace, and know whether
a speaker has finished: the figures are those of turn taking, and not of a model.

Per size, with work ahead of the turn's end (`eager`) and without: the time from the end of speech to the first audio,
from a barge-in to the last audio, false interruptions, turns that were missed or heard as several, and how soon single
words were taken for turns. `on_time` is false where the speakers themselves were late: then the machine does not
manage so many sessions, and the figures of that size say nothing. Needs Debian's recorded prompts
(tests/tools/prompts.sh).

With `--check` the status is 1 where a size that was on time misses a target: a stop within 100 ms (p95) once there is
enough speech, at most one false interruption in 100 back-channels, no turn missed, single words decided within 400 ms
(p95; with semantic_vad).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from typing import Any

from bench.conversation.run import Options, Result, run
from bench.conversation.stages import PACES_S
from bench.conversation.targets import missed_targets
from bench.machine import machine
from bench.report import arguments_parser, report
from tests.gateway.realtime.sounds import prompts_folder

_DETECTIONS: dict[str, dict[str, Any]] = {
    "semantic_vad": {"type": "semantic_vad", "eagerness": "high"},
    "server_vad": {"type": "server_vad"},
}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--sessions", default="1,8,32,64", help="sizes, one after the other (default %(default)s)")
    add("--seconds", type=float, default=60.0, help="of each size: exchanges begin until then (default %(default)s)")
    add("--eager", choices=("on", "off", "both"), default="both", help="(default %(default)s)")
    add("--detection", choices=tuple(_DETECTIONS), default="semantic_vad", help="(default %(default)s)")
    add("--noise", type=float, default=0.005, help="root mean square of the full scale (default %(default)s)")
    add("--back-channel-ms", type=int, default=250, help="how long a listener's sounds are (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--check", action="store_true", help="exit with 1 where a target is missed")
    given = parser.parse_args()
    logging.basicConfig(level="ERROR", format="%(message)s", stream=sys.stderr)
    if not prompts_folder():
        parser.error("there are no recorded prompts: see tests/tools/prompts.sh")
    runs: dict[str, Result] = {}
    for sessions in map(int, given.sessions.split(",")):
        for eager in {"on": (True,), "off": (False,), "both": (True, False)}[given.eager]:
            options = Options(
                sessions,
                given.seconds,
                eager,
                _DETECTIONS[given.detection],
                given.seed,
                given.noise,
                given.back_channel_ms,
            )
            name = f"{sessions} sessions, eager {'on' if eager else 'off'}"
            runs[name] = asyncio.run(run(options))
            print(f"{name}: {runs[name].shown()}", file=sys.stderr, flush=True)
    command = (
        f"python -m bench.conversation --sessions {given.sessions} --seconds {given.seconds:g} --eager {given.eager}"
        f" --detection {given.detection} --noise {given.noise:g} --back-channel-ms {given.back_channel_ms}"
        f" --seed {given.seed}"
    )
    missed = {name: missed_targets(result.figures, given.detection) for name, result in runs.items()}
    told = {
        "command": command,
        "machine": machine(),
        "stage_paces_s": PACES_S,
        "runs": {name: result.shown() for name, result in runs.items()},
        "on_time": [name for name, result in runs.items() if result.figures.is_on_time],
        "missed_targets": {name: targets for name, targets in missed.items() if targets},
    }
    report(told, given.json)
    failed = any(missed[name] for name, result in runs.items() if result.figures.is_on_time)
    sys.exit(1 if given.check and failed else 0)


if __name__ == "__main__":
    main()
