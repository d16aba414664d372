"""Which answers of endpoints have a line run again, and which of those count as its failures."""

from __future__ import annotations

import pytest

from services.common.errors import AntiphonError, Capacity, Fault, TimedOut, WorkerLost
from services.common.http.errors import error_headers, error_object
from services.gateway.batches.execute import EndpointResponse
from services.gateway.batches.lines import Again, again_of

LATE = "It is late."


def outcome_of(error: AntiphonError) -> Again | None:
    return again_of(EndpointResponse(error.status, "req_1", error_object(error), error_headers(error)))


@pytest.mark.parametrize(
    "error", [Capacity(LATE, retry_after_s=7), WorkerLost(LATE, retry_after_s=7), TimedOut(LATE, retry_after_s=7)]
)
def test_who_waited_for_a_worker_in_vain_has_not_failed(error: AntiphonError) -> None:
    assert outcome_of(error) == Again(7)


@pytest.mark.parametrize("error", [TimedOut(LATE), Fault(LATE)])
def test_who_was_worked_on_has_failed(error: AntiphonError) -> None:
    outcome = outcome_of(error)
    assert outcome is not None
    assert outcome.has_failed


def test_what_is_wrong_with_a_line_is_its_result() -> None:
    assert again_of(EndpointResponse(400, "req_1", {"error": {"code": "invalid_value"}})) is None
