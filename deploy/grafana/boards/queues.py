"""Who waits, who works, and what the scaler makes of it."""

from __future__ import annotations

from deploy.grafana.panels import Board, Graph, Query
from deploy.grafana.queries import each_queue, rate

QUEUES = Board(
    "antiphon-queues",
    "Antiphon / Queues and scaling",
    "Queues and workers of each stage, and the decisions of the scaler.",
    {
        "Queues": [
            Graph("Waiting", "Requests that wait for a slot.", "short", [each_queue("antiphon_queue_depth_tickets")]),
            Graph(
                "Oldest wait",
                "Wait of the oldest request, but for lines of batches that wait for others.",
                "s",
                [each_queue("antiphon_queue_oldest_wait_seconds")],
                30,
            ),
            Graph(
                "Slots in use",
                "Part of all slots that are granted or in use.",
                "percentunit",
                [
                    Query(
                        "max by (stage, model) (antiphon_queue_busy_slots{$ns})"
                        " / max by (stage, model) (antiphon_queue_slots{$ns})",
                        "{{stage}} {{model}}",
                    )
                ],
            ),
            Graph("Workers", "That beat.", "short", [each_queue("antiphon_queue_live_workers")]),
            Graph("Slots", "Of live workers.", "short", [each_queue("antiphon_queue_slots")]),
            Graph(
                "Redis errors",
                "Failed calls per second by service: Redis was away or refused the command.",
                "short",
                [
                    rate("antiphon_redis_errors_total", "job, kind", "{{job}} {{kind}}"),
                    rate("antiphon_scaler_failed_looks_total", "job", "{{job}} looks at queues"),
                ],
            ),
        ],
        "Scaling": [
            Graph(
                "Replicas wanted and there",
                "Replicas that the scaler reports to KEDA, and live workers.",
                "short",
                [
                    Query("max by (stage, model) (antiphon_scaler_wanted_replicas{$ns})", "{{stage}} {{model}} wanted"),
                    Query("max by (stage, model) (antiphon_scaler_workers{$ns})", "{{stage}} {{model}} there"),
                ],
            ),
            Graph(
                "Arrivals",
                "Requests per second that reach a queue.",
                "reqps",
                [Query("max by (stage, model) (antiphon_scaler_arrival_rate{$ns})", "{{stage}} {{model}}")],
            ),
            Graph(
                "Slots and load, as the scaler sees them",
                "Slots, used slots, and requests that wait.",
                "short",
                [
                    Query("max by (stage, model) (antiphon_scaler_slots_total{$ns})", "{{stage}} slots"),
                    Query("max by (stage, model) (antiphon_scaler_slots_busy{$ns})", "{{stage}} in use"),
                    Query("max by (stage, model) (antiphon_scaler_queue_depth{$ns})", "{{stage}} waiting"),
                ],
            ),
            Graph(
                "Head of the queue",
                "Age of the oldest request, as the scaler sees it.",
                "s",
                [Query("max by (stage, model) (antiphon_scaler_queue_head_age_seconds{$ns})", "{{stage}} {{model}}")],
            ),
            Graph(
                "Largest size",
                "Replicas and their maximum, from kube-state-metrics.",
                "short",
                [
                    Query(
                        "max by (horizontalpodautoscaler) (kube_horizontalpodautoscaler_status_current_replicas"
                        '{$ns, horizontalpodautoscaler=~".*-(preprocess|thinker|talker)"})',
                        "{{horizontalpodautoscaler}}",
                    ),
                    Query(
                        "max by (horizontalpodautoscaler) (kube_horizontalpodautoscaler_spec_max_replicas"
                        '{$ns, horizontalpodautoscaler=~".*-(preprocess|thinker|talker)"})',
                        "{{horizontalpodautoscaler}} at most",
                    ),
                ],
            ),
            Graph(
                "Starts",
                "Processes that restarted in the last 15 minutes.",
                "short",
                [Query('changes(process_start_time_seconds{$ns, job=~"antiphon-.*"}[15m])', "{{job}} {{instance}}")],
            ),
        ],
    },
)
