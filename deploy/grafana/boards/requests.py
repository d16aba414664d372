"""What clients request and what they get."""

from __future__ import annotations

from deploy.grafana.panels import Board, Graph, Number, Query
from deploy.grafana.queries import RATE, rate

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
                    f'|unavailable|gone"}}[{RATE}])) / sum(rate(antiphon_gateway_turns_total{{$ns}}[{RATE}]))'
                ),
                0.02,
            ),
            Number(
                "Refused",
                "Part of the requests that got 429.",
                "percentunit",
                Query(
                    f'sum(rate(antiphon_gateway_turns_total{{$ns, outcome="queue_full"}}[{RATE}]))'
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
        ],
    },
)
