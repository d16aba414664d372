"""A trigger's metadata. Errors name the wrong key and the accepted values."""

from __future__ import annotations

import pytest

from services.common.errors import BadInput
from services.common.queues import QueueName
from services.scaler.metadata import Trigger, read_trigger
from services.scaler.policy import Terms
from tests.scaler.conftest import METADATA


def test_the_terms_are_parsed() -> None:
    assert read_trigger(METADATA) == Trigger(QueueName("thinker", "tiny"), Terms(2, 4, 0, 0.8, 0.3, 1.5))
    least = {"stage": "talker", "model": "org/name", "slotsPerReplica": "3", "maxReplicas": "9", "enableTLS": "true"}
    assert read_trigger(least) == Trigger(QueueName("talker", "org/name"), Terms(3, 9))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("stage", None, "is missing; it must be one of preprocess, thinker, talker"),
        ("stage", "gateway", "'gateway' is not one of preprocess, thinker, talker"),
        ("model", None, "is missing; it must be a served name of 1 to 256 characters"),
        ("model", "", "'' is not a served name"),
        ("model", "m" * 257, f"'{'m' * 100}' is not a served name"),
        ("slotsPerReplica", None, "is missing; it must be a whole number from 1 to 4096"),
        ("slotsPerReplica", "0", "'0' is not a whole number from 1 to 4096"),
        ("slotsPerReplica", "2.5", "'2.5' is not a whole number"),
        ("slotsPerReplica", "many", "'many' is not a whole number"),
        ("maxReplicas", "0", "'0' is not a whole number from 1 to 100000"),
        ("maxReplicas", None, "is missing"),
        ("minReplicas", "-1", "'-1' is not a whole number from 0"),
        ("minReplicas", "5", "'5' is more than maxReplicas, 4"),
        ("targetUtilization", "0", "'0' is not a number over 0 up to 1"),
        ("targetUtilization", "1.01", "'1.01' is not a number over 0 up to 1"),
        ("targetUtilization", "nan", "'nan' is not a number over 0 up to 1"),
        ("targetUtilization", "80%", "'80%' is not a number"),
        ("maxWaitSeconds", "0", "'0' is not a number over 0 up to 600"),
        ("scaleDownDelaySeconds", "-1", "'-1' is not a number from 0 to 86400"),
        ("scaleDownDelaySeconds", "inf", "'inf' is not a number from 0 to 86400"),
        ("slotPerReplica", "2", "unknown; known are maxReplicas, maxWaitSeconds, minReplicas, model"),
    ],
)
def test_wrong_metadata_is_refused_with_its_key(key: str, value: str | None, told: str) -> None:
    metadata = {**METADATA, key: value}
    with pytest.raises(BadInput) as refused:
        read_trigger({name: text for name, text in metadata.items() if text is not None})
    assert refused.value.param == key
    assert f"{key}: {told}" in refused.value.message


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        read_trigger({"stage": "x", "speed": "1"})
    assert all(key in refused.value.message for key in ("speed", "stage", "model", "slotsPerReplica", "maxReplicas"))
