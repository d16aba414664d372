"""What clients request and what they get."""

from __future__ import annotations

from deploy.grafana.panels import Board, Graph, Number, Query
from deploy.grafana.queries import RATE, quantiles, rate

REQUESTS = Board(
    "antiphon-requests",
    "Antiphon / Requests",
    "What clients request and what they get.",
    {
        "Now": [
            Number(
                "Gateways ready",
                "Gateways that could answer a request.",
                "short",
                Query("sum(antiphon_gateway_ready{$ns})"),
                1,
                low_is_bad=True,
            ),
            Number("Live turns", "Requests under way.", "short", Query("sum(antiphon_gateway_live_turns{$ns})")),
            Number("Requests", "A second.", "reqps", Query(f"sum(rate(antiphon_gateway_turns_total{{$ns}}[{RATE}]))")),
            Number(
                "Errors",
                "Part of the requests that ended with a server error.",
                "percentunit",
                Query(
                    'sum(rate(antiphon_gateway_turns_total{$ns, outcome=~"internal_error|worker_lost|deadline_exceeded'
                    f'|unavailable|limits_unavailable|gone"}}[{RATE}]))'
                    f" / sum(rate(antiphon_gateway_turns_total{{$ns}}[{RATE}]))"
                ),
                0.02,
            ),
            Number(
                "Refused",
                "Part of the requests that got 429.",
                "percentunit",
                Query(
                    'sum(rate(antiphon_gateway_turns_total{$ns, outcome=~"queue_full|rate_limit_exceeded'
                    f'|insufficient_quota"}}[{RATE}]))'
                    f" / sum(rate(antiphon_gateway_turns_total{{$ns}}[{RATE}]))"
                ),
                0.05,
            ),
            Number(
                "Silence in speech",
                "Gaps that a client hears if it plays speech as it arrives, as part of the length of the speech.",
                "percentunit",
                Query(
                    f"sum(rate(antiphon_gateway_underrun_seconds_total{{$ns}}[{RATE}]))"
                    f" / (0.08 * sum(rate(antiphon_talker_frames_total{{$ns}}[{RATE}])))"
                ),
                0.01,
            ),
        ],
        "Requests": [
            Graph(
                "Turns by outcome",
                "ok, cancelled (the client left), or the class of the error.",
                "reqps",
                [rate("antiphon_gateway_turns_total", "outcome")],
            ),
            Graph(
                "HTTP answers by status",
                "499 is a client that left before the first byte.",
                "reqps",
                [rate("antiphon_gateway_http_requests_total", "route, status", "{{status}} {{route}}")],
            ),
            Graph(
                "Live turns",
                "By gateway.",
                "short",
                [Query("sum by (instance) (antiphon_gateway_live_turns{$ns})", "{{instance}}")],
            ),
            Graph(
                "Tokens",
                "Per second: prompt tokens, those of media or cached, text tokens, and frames of speech.",
                "short",
                [rate("antiphon_gateway_tokens_total", "kind")],
            ),
            Graph(
                "Speech asked for",
                "Turns with and without speech.",
                "reqps",
                [rate("antiphon_gateway_turns_total", "speech", "speech {{speech}}")],
            ),
            Graph(
                "Began again",
                "Slots that were requested again because a worker did not start, and requests whose client left.",
                "reqps",
                [
                    rate("antiphon_gateway_stage_retries_total", "stage", "retried {{stage}}"),
                    rate("antiphon_gateway_resumes_total", "stage", "resumed {{stage}}"),
                    Query(f"sum(rate(antiphon_gateway_cancels_total{{$ns}}[{RATE}]))", "cancelled"),
                ],
            ),
            Graph(
                "Connections without a key",
                "Open HTTP connections that had no request with a valid key yet, by gateway. At its limit the "
                "oldest idle one is closed.",
                "short",
                [Query("sum by (instance) (antiphon_gateway_unauthenticated_connections{$ns})", "{{instance}}")],
            ),
            Graph(
                "Connections closed",
                "By the gateway, and why: idle, slow or too many without a key (docs/security.md).",
                "cps",
                [rate("antiphon_gateway_connections_closed_total", "reason")],
            ),
            Graph(
                "Realtime sessions",
                "Open ones, by gateway.",
                "short",
                [Query("sum by (instance) (antiphon_gateway_realtime_sessions{$ns})", "{{instance}}")],
            ),
            Graph(
                "Realtime calls",
                "Calls over WebRTC that were answered. Unconnected: no packet of the client came through in time"
                " (docs/realtime.md).",
                "cps",
                [rate("antiphon_gateway_realtime_calls_total", "outcome")],
            ),
            Graph(
                "Realtime turns",
                "Turns of users that the server detected, by what ended them, what the model said of their pauses, what"
                " became of brief sounds over answers, and responses that were begun ahead.",
                "cps",
                [
                    rate("antiphon_gateway_realtime_turns_total", "ended_by"),
                    rate("antiphon_gateway_realtime_judgements_total", "verdict"),
                    rate("antiphon_gateway_realtime_brief_sounds_total", "outcome"),
                    rate("antiphon_gateway_realtime_eager_responses_total", "outcome"),
                    rate("antiphon_gateway_realtime_prefills_total", "outcome"),
                ],
            ),
            Graph(
                "Realtime detection of speech",
                "From a client's audio to what the detector says about it. Slow: the gateway lacks processor time.",
                "s",
                quantiles("antiphon_gateway_realtime_detection_seconds"),
            ),
            Graph(
                "Realtime lateness",
                "How late packets of speech leave, by the pacing. Slow: the gateway lacks processor time, or clients do"
                " not read.",
                "s",
                quantiles("antiphon_gateway_realtime_lateness_seconds"),
            ),
            Graph(
                "Realtime interruptions",
                "From speech that interrupts a response to the response's last event.",
                "s",
                quantiles("antiphon_gateway_realtime_interrupt_seconds"),
            ),
            Graph(
                "Memory of requests",
                "Bytes of each gateway's budget that requests hold and wait for, and inline media on its disk.",
                "bytes",
                [
                    Query(
                        "sum by (instance, budget, state) (antiphon_memory_budget_bytes{$ns})",
                        "{{instance}} {{budget}} {{state}}",
                    ),
                    Query("sum by (instance) (antiphon_gateway_spill_bytes{$ns})", "{{instance}} disk"),
                ],
            ),
            Graph(
                "Media kept in memory",
                "Requests whose inline media found no room on a gateway's disk.",
                "reqps",
                [Query(f"sum(rate(antiphon_gateway_spill_refused_total{{$ns}}[{RATE}]))", "kept in memory")],
            ),
        ],
        "Media": [
            Graph(
                "Media items",
                "Media items by the work they needed: none (cached), processing, or decoding too.",
                "reqps",
                [rate("antiphon_preprocess_items_total", "modality, work", "{{modality}} {{work}}")],
            ),
            Graph(
                "Media bytes",
                "Bytes per second by source.",
                "Bps",
                [rate("antiphon_preprocess_media_bytes_total", "source")],
            ),
            Graph(
                "Refused or failed",
                "By error code. Most are errors of clients.",
                "reqps",
                [rate("antiphon_preprocess_errors_total", "code")],
            ),
            Graph(
                "Isolation of decoders",
                "1 where decoders have the layer (docs/security.md).",
                "short",
                [Query("min by (layer) (antiphon_preprocess_decoder_isolation{$ns})", "{{layer}}")],
            ),
        ],
        "Batches": [
            Graph(
                "Batch lines",
                "Lines of batches a second: completed, failed (an error is their result), returned (to be run again).",
                "reqps",
                [Query(f"sum by (outcome) (rate(antiphon_gateway_batch_lines_total{{$ns}}[{RATE}]))", "{{outcome}}")],
            ),
            Graph(
                "Batches",
                "Batches that are not over, and their lines that run and that wait.",
                "short",
                [
                    Query("max(antiphon_gateway_batches_open{$ns})", "batches"),
                    Query("sum(antiphon_gateway_batch_running_lines{$ns})", "lines that run"),
                    Query("max(antiphon_gateway_batch_waiting_lines{$ns})", "lines that wait"),
                ],
            ),
            Graph(
                "Time of a batch's line",
                "From its start to its result, the wait for room and slots included.",
                "s",
                quantiles("antiphon_gateway_batch_line_seconds"),
            ),
            Graph(
                "Files and jobs",
                "Files a second, jobs of batches, and failures of the object store.",
                "short",
                [
                    Query(
                        f"sum by (purpose) (rate(antiphon_gateway_files_total{{$ns}}[{RATE}]))", "files: {{purpose}}"
                    ),
                    Query(
                        "sum by (job, outcome)"
                        f' (rate(antiphon_gateway_batch_jobs_total{{$ns, outcome!="done"}}[{RATE}]))',
                        "{{job}}: {{outcome}}",
                    ),
                    Query(f"sum(rate(antiphon_gateway_object_store_failures_total{{$ns}}[{RATE}]))", "store failures"),
                ],
            ),
        ],
    },
)
