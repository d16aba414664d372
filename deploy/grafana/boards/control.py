"""The control plane, and the way of usage records into its database."""

from __future__ import annotations

from deploy.grafana.panels import Board, Graph, Number, Query
from deploy.grafana.queries import rate

LATE_S = 300
"""What AntiphonMeteringLate fires at."""

CONTROL = Board(
    "antiphon-control",
    "Antiphon / Control plane and metering",
    "What gateways are told, and how usage records come into the database. Empty without a control plane.",
    {
        "Control plane": [
            Number("Replicas", "That report.", "short", Query("count(antiphon_control_keys{$ns})"), 1, low_is_bad=True),
            Number("Keys", "API keys that work.", "short", Query("max(antiphon_control_keys{$ns})")),
            Graph(
                "Gateways",
                "That follow each replica. It should be their number, all replicas together.",
                "short",
                [Query("sum by (instance) (antiphon_control_watchers{$ns})", "{{instance}}")],
            ),
            Graph(
                "Database errors",
                "Transactions that failed, a second: the database was away or busy.",
                "cps",
                [rate("antiphon_control_database_errors_total", "instance")],
            ),
        ],
        "Metering": [
            Graph(
                "Lag",
                "Age of the oldest usage record that the database lacks, as the replica sees it that knows most.",
                "s",
                [Query("min(antiphon_ledger_lag_seconds{$ns})")],
                LATE_S,
            ),
            Graph(
                "Records in Redis",
                "That the database lacks.",
                "short",
                [Query("max(antiphon_ledger_waiting_records{$ns})")],
            ),
            Graph(
                "Records read",
                "A second. Duplicates come after failures and count once; rejected ones are set aside.",
                "cps",
                [rate("antiphon_ledger_records_total", "result")],
            ),
            Graph("Events", "CloudEvents a second.", "cps", [rate("antiphon_ledger_events_total", "outcome")]),
            Graph(
                "Events to send",
                "Records that the receiver did not take yet.",
                "short",
                [Query("max(antiphon_ledger_waiting_events{$ns})")],
            ),
        ],
    },
)
