"""PromQL that several panels are made of."""

from __future__ import annotations

from deploy.grafana.panels import Query

RATE = "$__rate_interval"


def quantiles(metric: str, by: str = "") -> list[Query]:
    """The median, and what one in twenty exceeds, of a histogram; for each value of label `by`."""
    labels, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    return [
        Query(f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{$ns}}[{RATE}])))", f"{legend}p{name}")
        for q, name in ((0.5, "50"), (0.95, "95"))
    ]


def rate(metric: str, by: str, legend: str = "", more: str = "") -> Query:
    return Query(f"sum by ({by}) (rate({metric}{{$ns{more}}}[{RATE}]))", legend or f"{{{{{by}}}}}")


def each_queue(metric: str) -> Query:
    """A queue's gauge; every gateway exports the same."""
    return Query(f"max by (stage, model) ({metric}{{$ns}})", "{{stage}} {{model}}")
