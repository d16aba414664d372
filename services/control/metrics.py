"""The control plane's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

KEYS = Gauge("antiphon_control_keys", "API keys that are neither revoked nor of an archived project.")
WATCHERS = Gauge("antiphon_control_watchers", "Gateways that follow this replica.")
DATABASE_ERRORS = Counter(
    "antiphon_control_database_errors_total", "Transactions that failed since the database was away or busy."
)
LEDGER_RECORDS = Counter(
    "antiphon_ledger_records_total",
    "Usage records that were read: new, duplicate, or rejected (no valid record; set aside).",
    ("result",),
)
LEDGER_WAITING = Gauge("antiphon_ledger_waiting_records", "Usage records in Redis that the database lacks.")
LEDGER_LAG = Gauge(
    "antiphon_ledger_lag_seconds",
    "Age of the oldest usage record that the database lacks. It grows while Redis or the database is away.",
)
EVENTS = Counter("antiphon_ledger_events_total", "CloudEvents of usage records: sent, or failed.", ("outcome",))
EVENTS_WAITING = Gauge("antiphon_ledger_waiting_events", "Usage records that are still to be sent as CloudEvents.")

for _result in ("new", "duplicate", "rejected"):
    LEDGER_RECORDS.labels(_result)  # shown from the start, so that a rate sees the first one
for _outcome in ("sent", "failed"):
    EVENTS.labels(_outcome)
