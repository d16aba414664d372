"""The rows of the published latency table, read from the gateway's metrics."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

ROWS = (
    ("preprocessing", "antiphon_gateway_preprocess_seconds"),
    ("thinker, first token", "antiphon_gateway_thinker_first_token_seconds"),
    ("talker, first frame", "antiphon_gateway_talker_first_frame_seconds"),
    ("talker, a frame", "antiphon_gateway_talker_frame_seconds"),
    ("code predictor, a frame", "antiphon_gateway_predictor_frame_seconds"),
    ("codec decoder, a frame", "antiphon_gateway_codec_frame_seconds"),
    ("first text", "antiphon_gateway_first_text_seconds"),
    ("first audio", "antiphon_gateway_first_audio_seconds"),
)
"""What is shown, and the histogram of seconds behind it."""


def read_rows(metrics_url: str) -> list[tuple[str, float]]:
    """Return (row, mean seconds) of what a gateway has measured; rows that it has not are left out."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:  # noqa: S310  # our own gateway
        text = answer.read().decode()
    samples = {
        sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
    }
    return [
        (row, samples[f"{name}_sum"] / count) for row, name in ROWS if (count := samples.get(f"{name}_count", 0.0)) > 0
    ]
