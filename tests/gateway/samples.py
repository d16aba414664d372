"""Reads metrics of this process."""

from __future__ import annotations

from prometheus_client import REGISTRY


def sample(name: str, **labels: str) -> float:
    """Return a sample's value; 0 where the series does not exist yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
