"""The talker's metrics: its part of the published latency table, and what becomes of its streams."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_STEP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.5, 1.0)

first_frame_seconds = Histogram(
    "antiphon_talker_first_frame_seconds",
    "From the answer's first text token at this worker to its first frame with samples",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
)
step_seconds = Histogram(
    "antiphon_talker_step_seconds", "The talker's forward for one frame of all streams of a step", buckets=_STEP_BUCKETS
)
predictor_seconds = Histogram(
    "antiphon_talker_predictor_seconds",
    "All draws and the code predictor (MTP) for one frame of all streams",
    buckets=_STEP_BUCKETS,
)
codec_seconds = Histogram(
    "antiphon_talker_codec_seconds", "code2wav for one frame of all streams of a step", buckets=_STEP_BUCKETS
)
real_time_factor_ratio = Histogram(
    "antiphon_talker_real_time_factor_ratio",
    "Seconds of steps for a second of one stream's speech, the others in its steps included; below 1 keeps up",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 5.0),
)
engine_answer_seconds = Gauge(
    "antiphon_talker_engine_answer_seconds", "Age of the question that the engine answers between two steps"
)
frames_total = Counter("antiphon_talker_frames_total", "Frames made")
live_streams = Gauge("antiphon_talker_live_streams", "Answers that are waiting or being spoken")
stream_ends_total = Counter(
    "antiphon_talker_stream_ends_total", "Answers ended: stop, length, no_text, cancelled or failed", ["end"]
)
derailments_total = Counter(
    "antiphon_talker_derailments_total",
    "Times that speech no longer followed its text: stall, cycle, repeat, silence, endless or cut; it was ended, or "
    "spoken again",
    ["why", "done"],
)
slots = Gauge("antiphon_talker_slots", "Streams that this worker's memory holds at once")
kv_cache_bytes = Gauge("antiphon_talker_kv_cache_bytes", "Memory set aside for streams: keys and values, codec state")
kv_blocks = Gauge("antiphon_talker_kv_blocks", "Blocks of the KV cache, of 64 tokens each")
kv_blocks_in_use = Gauge("antiphon_talker_kv_blocks_in_use", "Blocks of the KV cache that streams hold")
preemptions_total = Counter(
    "antiphon_talker_preemptions_total", "Streams paused because the KV cache had no free block for an older one"
)
batch_streams = Histogram(
    "antiphon_talker_batch_streams", "Streams in a step", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
