"""The scaler's Prometheus metrics: the state of each queue that it scales, and the replicas that it asks for."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from services.common.queues.tickets import QueueName, QueueStats
from services.scaler.policy import Decision

_LABELS = ("stage", "model")
DEPTH = Gauge("antiphon_scaler_queue_depth", "Tickets that wait.", _LABELS)
HEAD_AGE = Gauge(
    "antiphon_scaler_queue_head_age_seconds",
    "How long the oldest ticket has waited, but for those of batches that yield to others.",
    _LABELS,
)
BUSY = Gauge("antiphon_scaler_slots_busy", "Busy slots of workers that take tickets.", _LABELS)
SLOTS = Gauge("antiphon_scaler_slots_total", "Slots of workers that take tickets.", _LABELS)
DRAINING = Gauge("antiphon_scaler_slots_draining", "Busy slots of workers that drain.", _LABELS)
WORKERS = Gauge("antiphon_scaler_workers", "Workers that take tickets.", _LABELS)
ARRIVALS = Gauge("antiphon_scaler_arrival_rate", "Tickets a second that came, refused ones too.", _LABELS)
WANTED = Gauge("antiphon_scaler_wanted_replicas", "Replicas that the policy asks for.", _LABELS)
FAILED_LOOKS = Counter("antiphon_scaler_failed_looks_total", "Looks at a queue that Redis did not answer.", _LABELS)
POD_PATCHES = Counter(
    "antiphon_scaler_pod_patches_total",
    "Patches of a pod's deletion cost, by outcome: written, gone (no such pod), forbidden, or failed.",
    ("outcome",),
)

_GAUGES = (DEPTH, HEAD_AGE, BUSY, SLOTS, DRAINING, WORKERS, ARRIVALS)

_wanted: dict[QueueName, dict[object, int]] = {}
"""{queue: {trigger: replicas}}. Several triggers may name one queue; the highest number counts."""


def show(queue: QueueName, stats: QueueStats) -> None:
    for gauge, number in (
        (DEPTH, stats.depth),
        (HEAD_AGE, stats.oldest_wait_s),
        (BUSY, stats.busy - stats.draining_busy),
        (SLOTS, stats.slots - stats.draining_slots),
        (DRAINING, stats.draining_busy),
        (WORKERS, stats.workers - stats.draining_workers),
        (ARRIVALS, stats.arrivals_per_s + stats.refusals_per_s),
    ):
        gauge.labels(queue.stage, queue.model).set(number)


def show_wanted(queue: QueueName, by: object, decision: Decision) -> None:
    wanted = _wanted.setdefault(queue, {})
    wanted[by] = decision.replicas
    WANTED.labels(queue.stage, queue.model).set(max(wanted.values()))


def hide_wanted(queue: QueueName, by: object) -> None:
    """Forget what `by` asked for; the series ends with the last one."""
    wanted = _wanted.get(queue, {})
    if wanted.pop(by, None) is None:
        return
    if wanted:
        WANTED.labels(queue.stage, queue.model).set(max(wanted.values()))
    else:
        del _wanted[queue]
        WANTED.remove(queue.stage, queue.model)


def forget(queue: QueueName) -> None:
    for gauge in _GAUGES:
        gauge.remove(queue.stage, queue.model)
