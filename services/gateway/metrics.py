"""The gateway's Prometheus metrics.

The latency metrics are the rows of the table in Qwen3-Omni's technical report, so that a user sees which one is slow.
Labels are stage, model, route, status, outcome and tenant, whose number auth.ApiKeys bounds; never a request's id or a
key.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_S = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)
_FRAME_S = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.016, 0.02, 0.03, 0.05, 0.08, 0.15, 0.5, 1)

# Requests
HTTP_REQUESTS = Counter("antiphon_gateway_http_requests_total", "HTTP requests answered.", ("route", "status"))
TURNS = Counter(
    "antiphon_gateway_turns_total",
    "Turns that ended, by outcome: ok, cancelled (the client left), client_deadline (the client's own, shorter deadline"
    " passed), or the class of the error.",
    ("outcome", "speech", "tenant"),
)
LIVE_TURNS = Gauge("antiphon_gateway_live_turns", "Running turns.", ("tenant",))
CANCELS = Counter("antiphon_gateway_cancels_total", "Turns whose client left before the end.")
STAGE_RETRIES = Counter(
    "antiphon_gateway_stage_retries_total", "Slots asked for again because a worker did not begin.", ("stage",)
)
RESUMES = Counter(
    "antiphon_gateway_resumes_total",
    "Answers that went on with another worker after the one that worked on them was lost, by stage and cause.",
    ("stage", "cause"),
)
FATAL_REQUESTS = Counter(
    "antiphon_gateway_fatal_requests_total",
    "Requests that ended two engines of a stage and were not tried again.",
    ("stage",),
)
TOKENS = Counter(
    "antiphon_gateway_tokens_total",
    "Tokens read and generated, also by turns that failed: prompt, of these prompt_image, prompt_audio, prompt_video"
    " and prompt_cached; text; audio (frames of speech, 80 ms each).",
    ("kind", "tenant"),
)

# The published latency table
PREPROCESS = Histogram("antiphon_gateway_preprocess_seconds", "Prepare, without its queue.", buckets=_LATENCY_S)
QUEUE_WAIT = Histogram("antiphon_gateway_queue_wait_seconds", "From ticket to grant.", ("stage",), buckets=_LATENCY_S)
THINKER_FIRST_TOKEN = Histogram(
    "antiphon_gateway_thinker_first_token_seconds", "From the call of Generate to the first token.", buckets=_LATENCY_S
)
TALKER_FIRST_FRAME = Histogram(
    "antiphon_gateway_talker_first_frame_seconds",
    "From the first text token to the first codec frame.",
    buckets=_LATENCY_S,
)
TALKER_FRAME = Histogram("antiphon_gateway_talker_frame_seconds", "Talker, mean a frame of one turn.", buckets=_FRAME_S)
PREDICTOR_FRAME = Histogram(
    "antiphon_gateway_predictor_frame_seconds", "Code predictor (MTP), mean a frame of one turn.", buckets=_FRAME_S
)
CODEC_FRAME = Histogram(
    "antiphon_gateway_codec_frame_seconds", "Codec decoder, mean a frame of one turn.", buckets=_FRAME_S
)
FIRST_TEXT = Histogram("antiphon_gateway_first_text_seconds", "From arrival to the first token.", buckets=_LATENCY_S)
FIRST_AUDIO = Histogram("antiphon_gateway_first_audio_seconds", "From arrival to the first sample.", buckets=_LATENCY_S)
TURN = Histogram("antiphon_gateway_turn_seconds", "From arrival to the end of an answered turn.", buckets=_LATENCY_S)
REAL_TIME_FACTOR = Histogram(
    "antiphon_gateway_real_time_factor_ratio",
    "From the first token to the last sample, over the length of the speech.",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2, 4, 8),
)
_RATES = (5, 10, 12.5, 20, 40, 60, 80, 100, 150, 200, 300, 500, 1000)
THINKER_TOKENS_PER_S = Histogram("antiphon_gateway_thinker_tokens_per_second", "One turn's text.", buckets=_RATES)
TALKER_FRAMES_PER_S = Histogram("antiphon_gateway_talker_frames_per_second", "One turn's speech.", buckets=_RATES)

# A client that plays speech as it receives it
UNDERRUNS = Counter("antiphon_gateway_underruns_total", "How often such a client would have run out of samples.")
UNDERRUN_SECONDS = Counter("antiphon_gateway_underrun_seconds_total", "How long it would have been silent.")

# Who waits
WAITING = Gauge("antiphon_gateway_waiting_tickets", "This gateway's tickets that wait.", ("stage", "tenant"))
TENANT_WAIT = Histogram(
    "antiphon_gateway_tenant_queue_wait_seconds",
    "From ticket to grant, as antiphon_gateway_queue_wait_seconds, for each tenant and all stages together.",
    ("tenant",),
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100),
)

# Read from the queues' store at each scrape
READY = Gauge("antiphon_gateway_ready", "1 while a request could be answered: /health/ready is 200.")
QUEUE_DEPTH = Gauge("antiphon_queue_depth_tickets", "Tickets that wait.", ("stage", "model"))
QUEUE_AGE = Gauge("antiphon_queue_oldest_wait_seconds", "Age of the oldest waiting ticket.", ("stage", "model"))
QUEUE_WORKERS = Gauge("antiphon_queue_live_workers", "Workers that beat.", ("stage", "model"))
QUEUE_SLOTS = Gauge("antiphon_queue_slots", "Slots of live workers.", ("stage", "model"))
QUEUE_BUSY = Gauge("antiphon_queue_busy_slots", "Slots that are granted or open.", ("stage", "model"))
