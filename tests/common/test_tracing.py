"""Parse the caller's span from untrusted headers."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from services.common.telemetry.tracing import context_from_headers

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def state_of(**headers: str) -> dict[str, str]:
    span = trace.get_current_span(context_from_headers(headers)).get_span_context()
    assert span.is_valid
    return dict(span.trace_state.items())


@pytest.mark.parametrize(
    ("tracestate", "expected"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE", {"rojo": "00f067aa0ba902b7", "congo": "t61rcWkgMzE"}),
        ("1a-2f@foo=bar/2", {"1a-2f@foo": "bar/2"}),
    ],
)
def test_a_tracestate_is_passed_on(tracestate: str, expected: dict[str, str]) -> None:
    assert state_of(traceparent=PARENT, tracestate=tracestate) == expected


@pytest.mark.parametrize(
    "tracestate",
    [
        "SECRET=1",
        "secret",
        "a=1,a=2",
        "a=secret\u00e9",
        "a=" + "s" * 600,
        ",".join(f"k{i}=1" for i in range(33)),
        "a=1,,=x",
    ],
)
def test_a_wrong_tracestate_is_dropped_and_not_logged(tracestate: str, caplog: pytest.LogCaptureFixture) -> None:
    assert state_of(traceparent=PARENT, tracestate=tracestate) == {}
    assert not caplog.records


@pytest.mark.parametrize("traceparent", ["", "secret", "0" * 4000])
def test_a_wrong_traceparent_is_ignored_and_not_logged(traceparent: str, caplog: pytest.LogCaptureFixture) -> None:
    context = context_from_headers({"traceparent": traceparent, "tracestate": "a=1"})
    assert not trace.get_current_span(context).get_span_context().is_valid
    assert not caplog.records
