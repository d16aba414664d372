"""Use, waits and refusals of each tenant."""

from __future__ import annotations

from deploy.grafana.panels import Board, Graph, Query
from deploy.grafana.queries import RATE, quantiles, rate

FRAME_S = 0.08
"""Of speech out, by a codec frame."""


def tokens(kind: str) -> Query:
    return rate("antiphon_gateway_tokens_total", "tenant", more=f', kind="{kind}"')


def part(of: str, more: str) -> Query:
    """The part of each tenant's turns whose outcome matches."""
    return Query(
        f"sum by (tenant) (rate({of}{{$ns, {more}}}[{RATE}])) / sum by (tenant) (rate({of}{{$ns}}[{RATE}]))",
        "{{tenant}}",
    )


TENANTS = Board(
    "antiphon-tenants",
    "Antiphon / Tenants",
    "Use, waits and refusals of each tenant. `default` is the one key or none, `other` all tenants without a "
    "series of their own.",
    {
        "Who uses how much": [
            Graph("Turns", "Ended, a second.", "reqps", [rate("antiphon_gateway_turns_total", "tenant")]),
            Graph(
                "Live turns",
                "Running requests, including those that wait.",
                "short",
                [Query("sum by (tenant) (antiphon_gateway_live_turns{$ns})", "{{tenant}}")],
            ),
            Graph(
                "With speech",
                "Part of the requests that ask for speech.",
                "percentunit",
                [part("antiphon_gateway_turns_total", 'speech="true"')],
            ),
            Graph("Tokens in", "Prompt tokens per second, including media.", "short", [tokens("prompt")]),
            Graph("Text out", "Tokens a second.", "short", [tokens("text")]),
            Graph(
                "Speech out",
                "Seconds of speech per second: how many streams speak at once.",
                "short",
                [
                    Query(
                        f"{FRAME_S} * sum by (tenant) (rate(antiphon_gateway_tokens_total"
                        f'{{$ns, kind="audio"}}[{RATE}]))',
                        "{{tenant}}",
                    )
                ],
            ),
            Graph("Audio in", "Audio tokens in prompts per second.", "short", [tokens("prompt_audio")]),
            Graph(
                "Client secrets",
                "Made, by what they may be used for.",
                "cps",
                [rate("antiphon_gateway_client_secrets_total", "scope")],
            ),
            Graph(
                "Tenant files read",
                "Changed files of tenants, by outcome. After a refused one the tenants stay as they were.",
                "cps",
                [rate("antiphon_gateway_tenant_files_read_total", "outcome")],
            ),
            Graph(
                "Images and video in",
                "Tokens of them in prompts per second.",
                "short",
                [rate("antiphon_gateway_tokens_total", "tenant", more=', kind=~"prompt_image|prompt_video"')],
            ),
            Graph(
                "From the prefix cache",
                "Part of the prompt tokens that came from the prefix cache.",
                "percentunit",
                [
                    Query(
                        f'sum by (tenant) (rate(antiphon_gateway_tokens_total{{$ns, kind="prompt_cached"}}[{RATE}]))'
                        f' / sum by (tenant) (rate(antiphon_gateway_tokens_total{{$ns, kind="prompt"}}[{RATE}]))',
                        "{{tenant}}",
                    )
                ],
            ),
        ],
        "Who costs how much": [
            Graph(
                "Cost",
                "An hour, in the prices' currency, at the present rate. Bills are made of usage records.",
                "short",
                [Query(f"3600 * sum by (tenant) (rate(antiphon_gateway_cost_total{{$ns}}[{RATE}]))", "{{tenant}}")],
            ),
            Graph(
                "Cost of a turn",
                "Mean of the turns that ended.",
                "short",
                [
                    Query(
                        f"sum by (tenant) (rate(antiphon_gateway_cost_total{{$ns}}[{RATE}]))"
                        f" / sum by (tenant) (rate(antiphon_gateway_turns_total{{$ns}}[{RATE}]))",
                        "{{tenant}}",
                    )
                ],
            ),
        ],
        "Who waits": [
            Graph(
                "Waiting",
                "Requests that wait for a slot.",
                "short",
                [
                    Query(
                        "sum by (tenant, stage) (antiphon_gateway_waiting_tickets{$ns})",
                        "{{tenant}} {{stage}}",
                    )
                ],
            ),
            Graph(
                "Wait for a slot",
                "Wait of tickets that got a slot, all stages together.",
                "s",
                quantiles("antiphon_gateway_tenant_queue_wait_seconds", "tenant"),
                10,
            ),
            Graph(
                "Mean wait for a slot",
                "Shows fairness: a tenant that sends too much waits, the others do not.",
                "s",
                [
                    Query(
                        f"sum by (tenant) (rate(antiphon_gateway_tenant_queue_wait_seconds_sum{{$ns}}[{RATE}]))"
                        f" / sum by (tenant) (rate(antiphon_gateway_tenant_queue_wait_seconds_count{{$ns}}[{RATE}]))",
                        "{{tenant}}",
                    )
                ],
            ),
        ],
        "Limits and metering": [
            Graph(
                "Refused by limits",
                "Requests a second that a limit of a key, project or organisation refused.",
                "reqps",
                [rate("antiphon_gateway_limit_refusals_total", "limit, of", "{{of}} {{limit}}")],
            ),
            Graph(
                "Cut by limits",
                "Answers a second that a limit ended.",
                "reqps",
                [rate("antiphon_gateway_limit_cuts_total", "limit, of", "{{of}} {{limit}}")],
            ),
            Graph(
                "Draws",
                "How often answers draw from limits a second; each is one call of Redis.",
                "ops",
                [
                    rate("antiphon_gateway_limit_draws_total", "what"),
                    Query(f"sum(rate(antiphon_gateway_limit_draw_failures_total{{$ns}}[{RATE}]))", "failed"),
                ],
            ),
            Graph(
                "Usage records that wait",
                "For Redis, on the gateways' disks or in memory.",
                "short",
                [Query("sum(antiphon_gateway_usage_spool_records{$ns})", "records")],
                1,
            ),
            Graph(
                "Turns and records lost",
                "Turns a second of gateways that died, which another one closed; records that found no room; turns that"
                " no limit counts, because their accounts could not be read.",
                "short",
                [
                    Query(f"sum(rate(antiphon_gateway_usage_lost_turns_total{{$ns}}[{RATE}]))", "turns"),
                    Query(f"sum(rate(antiphon_gateway_usage_spool_lost_total{{$ns}}[{RATE}]))", "records"),
                    Query(f"sum(rate(antiphon_gateway_usage_uncounted_total{{$ns}}[{RATE}]))", "not counted"),
                ],
            ),
            Graph(
                "Kept answers lost",
                "Answers a second that made room before their time, or were not kept: Redis was away or full.",
                "short",
                [
                    rate("antiphon_gateway_kept_evicted_total", "kind", "{{kind}}: made room"),
                    rate("antiphon_gateway_kept_failures_total", "kind", "{{kind}}: not kept"),
                ],
            ),
        ],
        "Who is refused": [
            Graph(
                "Refused",
                "Turns a second that got 429.",
                "reqps",
                [rate("antiphon_gateway_turns_total", "tenant", more=', outcome="queue_full"')],
            ),
            Graph(
                "Part refused",
                "Of a tenant's turns.",
                "percentunit",
                [part("antiphon_gateway_turns_total", 'outcome="queue_full"')],
                0.2,
            ),
            Graph(
                "Ended otherwise",
                "Requests per second that were neither answered nor refused, by outcome.",
                "reqps",
                [
                    rate(
                        "antiphon_gateway_turns_total",
                        "tenant, outcome",
                        "{{tenant}} {{outcome}}",
                        ', outcome!~"ok|queue_full|rate_limit_exceeded|insufficient_quota"',
                    )
                ],
            ),
        ],
    },
)
