"""DashScope's options and events, to OpenAI's and back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadInput
from services.gateway.realtime.dashscope import schema
from services.gateway.realtime.dashscope.translate import TURN_DETECTION, event_from, probability_of, threshold_of
from services.gateway.realtime.openai.options import changed_turn_detection
from services.gateway.realtime.openai.schema import SessionUpdate
from tests.gateway.realtime.dashscope.hostile import FIELDS, WORDS
from tests.gateway.realtime.hostile import any_fields, any_values

thresholds = st.integers(-1000, 1000).map(lambda thousandths: thousandths / 1000)


@given(thresholds, thresholds)
def test_a_threshold_is_a_probability_and_back(one: float, other: float) -> None:
    assert 0.05 <= probability_of(one) <= 0.95
    assert threshold_of(probability_of(one)) == one
    assert (one < other) == (probability_of(one) < probability_of(other))


def test_the_default_threshold_is_ours() -> None:
    assert probability_of(0.5) == TURN_DETECTION.threshold == 0.5
    assert probability_of(-1) == pytest.approx(0.05)


@pytest.mark.parametrize("kind", [None, "server_vad"])
def test_what_is_left_out_of_turn_detection_has_dashscopes_default(kind: str | None) -> None:
    raw = {"type": "session.update", "session": {"turn_detection": {"type": kind, "threshold": None}}}
    event = schema.parse_event(raw)
    assert isinstance(event, schema.SessionUpdate)
    translated = event_from(event)
    assert isinstance(translated, SessionUpdate)
    assert changed_turn_detection(None, translated.session) == TURN_DETECTION


@settings(max_examples=100, deadline=None)
@given(any_values(WORDS, FIELDS), any_fields(WORDS, FIELDS))
def test_any_value_is_translated_or_refused(value: object, fields: dict[str, object]) -> None:
    for kind, name in (("session.update", "session"), ("response.create", "response")):
        for given_options in (value, fields):
            with suppress(BadInput):
                event = schema.parse_event({"type": kind, name: given_options})
                assert isinstance(event, schema.SessionUpdate | schema.ResponseCreate)
                assert event_from(event).type == kind
