"""What Prometheus sees of this service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# From a small picture to the longest film that is taken.
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

STAGE_SECONDS = Histogram(
    "antiphon_preprocess_stage_seconds",
    "Time that one media item took to be fetched, decoded or processed",
    ("stage",),  # fetch, decode, process
    buckets=_SECONDS,
)
PREPARE_SECONDS = Histogram(
    "antiphon_preprocess_prepare_seconds", "Time of one Prepare, from its last byte in to its answer", buckets=_SECONDS
)
ITEMS = Counter(
    "antiphon_preprocess_items_total",
    "Media items, by what it took: nothing (cached), processing only, or decoding too",
    ("modality", "work"),  # cached, processed, decoded
)
MEDIA_BYTES = Counter("antiphon_preprocess_media_bytes_total", "Bytes of media files that came in", ("source",))
FEATURE_BYTES = Gauge("antiphon_preprocess_feature_bytes", "Bytes of features that are kept")
DECODER_ISOLATION = Gauge(
    "antiphon_preprocess_decoder_isolation", "Whether decoders have this layer of isolation: 1 or 0", ("layer",)
)
HELD_REQUESTS = Gauge("antiphon_preprocess_held_requests", "Requests that hold features, for a thinker to fetch")
PROCESSOR_ANSWER_SECONDS = Gauge(
    "antiphon_preprocess_processor_answer_seconds",
    "Age of the question that the processor's threads answer between two jobs",
)
ERRORS = Counter("antiphon_preprocess_errors_total", "Requests that were refused or failed", ("code",))
