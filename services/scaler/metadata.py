"""Parses the metadata of a ScaledObject's trigger: the queue that it scales, and the terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.errors import BadInput
from services.common.queues.tickets import QueueName
from services.common.stages import STAGES
from services.scaler.policy import Terms

KEDAS_OWN = frozenset({"scalerAddress", "enableTLS", "unsafeSsl"})
_LONGEST_MODEL = 256


@dataclass(frozen=True, slots=True)
class NumberRange:
    """The allowed range of a number: from `least` (exclusive where `over`) to `most`. No default = it is required."""

    least: float
    most: float
    default: float | None = None
    whole: bool = True
    over: bool = False

    @property
    def allowed(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} {'over' if self.over else 'from'} {self.least:g} {'up ' if self.over else ''}to {self.most:g}"

    def read(self, text: str) -> float | None:
        """Return the number, or None where `text` is not an allowed number."""
        try:
            number = int(text) if self.whole else float(text)
        except ValueError:
            return None
        inside = math.isfinite(number) and self.least <= number <= self.most
        return number if inside and not (self.over and number == self.least) else None


NUMBERS = {
    "slotsPerReplica": NumberRange(1, 4096),
    "maxReplicas": NumberRange(1, 100_000),
    "minReplicas": NumberRange(0, 100_000, default=0),
    "targetUtilization": NumberRange(0, 1, default=0.8, whole=False, over=True),
    "maxWaitSeconds": NumberRange(0, 600, default=5, whole=False, over=True),
    "scaleDownDelaySeconds": NumberRange(0, 86_400, default=300, whole=False),
}
KEYS = frozenset({"stage", "model", *NUMBERS})


@dataclass(frozen=True, slots=True)
class Trigger:
    queue: QueueName
    terms: Terms


def read_trigger(metadata: Mapping[str, str]) -> Trigger:
    """Parse the metadata. Raise BadInput naming every missing, unknown or wrong key, and what is allowed."""
    problems: dict[str, str] = {}
    for key in sorted(set(metadata) - KEYS - KEDAS_OWN):
        problems[key] = f"unknown; known are {', '.join(sorted(KEYS))}"
    if metadata.get("stage") not in STAGES:
        problems["stage"] = _problem(metadata, "stage", f"one of {', '.join(STAGES)}")
    if not 0 < len(metadata.get("model", "")) <= _LONGEST_MODEL:
        problems["model"] = _problem(metadata, "model", f"a served name of 1 to {_LONGEST_MODEL} characters")
    numbers: dict[str, float] = {}
    for key, number in NUMBERS.items():
        read = number.read(metadata[key]) if key in metadata else number.default
        if read is None:
            problems[key] = _problem(metadata, key, number.allowed)
        else:
            numbers[key] = read
    if not problems and numbers["minReplicas"] > numbers["maxReplicas"]:
        problems["minReplicas"] = f"'{metadata['minReplicas']}' is more than maxReplicas, {metadata['maxReplicas']}"
    if problems:
        lines = "; ".join(f"{key}: {problem}" for key, problem in problems.items())
        raise BadInput(f"wrong metadata: {lines}", param=next(iter(problems)))
    return Trigger(
        QueueName(metadata["stage"], metadata["model"]),
        Terms(
            slots_per_replica=int(numbers["slotsPerReplica"]),
            max_replicas=int(numbers["maxReplicas"]),
            min_replicas=int(numbers["minReplicas"]),
            target_utilization=numbers["targetUtilization"],
            max_wait_s=numbers["maxWaitSeconds"],
            scale_down_delay_s=numbers["scaleDownDelaySeconds"],
        ),
    )


def _problem(metadata: Mapping[str, str], key: str, allowed: str) -> str:
    return f"'{metadata[key][:100]}' is not {allowed}" if key in metadata else f"is missing; it must be {allowed}"
