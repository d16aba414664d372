"""The gateway's Prometheus metrics.

The latency metrics are the rows of the table in Qwen3-Omni's technical report, so that a user sees which one is slow.
Labels are stage, model, route, status, outcome and tenant, whose number auth.ApiKeys bounds; never a request's id or a
key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_S = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)
_FRAME_S = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.016, 0.02, 0.03, 0.05, 0.08, 0.15, 0.5, 1)

_HOP_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)

# Requests
HTTP_REQUESTS = Counter("antiphon_gateway_http_requests_total", "HTTP requests answered.", ("route", "status"))
UNAUTHENTICATED_CONNECTIONS = Gauge(
    "antiphon_gateway_unauthenticated_connections",
    "Open HTTP connections that had no request with a valid key yet.",
)
CONNECTIONS_CLOSED = Counter(
    "antiphon_gateway_connections_closed_total",
    "HTTP connections that the gateway closed, by reason: idle, slow_headers, headers_too_large, unread_body, too_many,"
    " unread_response (the last two without a valid key).",
    ("reason",),
)
REALTIME_SESSIONS = Gauge("antiphon_gateway_realtime_sessions", "Open realtime sessions.")
REALTIME_CALLS = Counter(
    "antiphon_gateway_realtime_calls_total",
    "Calls over WebRTC that were answered, by outcome: connected, unconnected (the client did not come in time).",
    ("outcome",),
)
REALTIME_TURNS = Counter(
    "antiphon_gateway_realtime_turns_total",
    "Turns of users that the server detected, by what ended them: silence, judged (the model took them for finished),"
    " timeout (nobody spoke), full (of the longest item), finished (the session ends).",
    ("ended_by",),
)
REALTIME_EAGER = Counter(
    "antiphon_gateway_realtime_eager_responses_total",
    "Responses that were begun before the turn was over, by outcome: used, thrown_away.",
    ("outcome",),
)
REALTIME_JUDGEMENTS = Counter(
    "antiphon_gateway_realtime_judgements_total",
    "Pauses of users, by what the model said about them: finished, unfinished, unknown (it did not say, or too late, or"
    " its session had asked as often as it may).",
    ("verdict",),
)
REALTIME_BRIEF_SOUNDS = Counter(
    "antiphon_gateway_realtime_brief_sounds_total",
    "Sounds over an answer, held meanwhile, that were too short to interrupt it by themselves, by outcome: meant and"
    " unmeant (by the model), unknown (it did not say, or too late), followed (the user went on), late (the answer was"
    " over first). Those that are meant, followed or late begin a turn.",
    ("outcome",),
)
REALTIME_PREFILLS = Counter(
    "antiphon_gateway_realtime_prefills_total",
    "Times that the thinker read what a user said while they spoke, by outcome: read, late (the turn ended before it),"
    " failed.",
    ("outcome",),
)
REALTIME_DETECTION = Histogram(
    "antiphon_gateway_realtime_detection_seconds",
    "From audio of a client, a second at most, to what the detector of speech says about it.",
    buckets=_HOP_S,
)
REALTIME_LATENESS = Histogram(
    "antiphon_gateway_realtime_lateness_seconds",
    "From when a packet of speech might leave, by the pacing, to when it has left.",
    buckets=_HOP_S,
)
REALTIME_INTERRUPT = Histogram(
    "antiphon_gateway_realtime_interrupt_seconds",
    "From speech that interrupts a response to the response's last event.",
    buckets=_HOP_S,
)
SPILL_BYTES = Gauge("antiphon_gateway_spill_bytes", "Inline media on disk: of turns whose prompt is prepared.")
SPILL_REFUSED = Counter(
    "antiphon_gateway_spill_refused_total",
    "Requests whose inline media stayed in memory to the end, because the disk or ANTIPHON_SPILL_BYTES was full.",
)
TURNS = Counter(
    "antiphon_gateway_turns_total",
    "Turns that ended, by outcome: ok, cancelled (the client left), client_deadline (the client's own, shorter deadline"
    " passed), discarded (a realtime response that was begun ahead in vain), or the class of the error.",
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
COST = Counter(
    "antiphon_gateway_cost_total",
    "What ended turns cost, in the prices' currency. Turns of gateways that died are missing: bill by usage records.",
    ("tenant",),
)
_TOKEN_KINDS = ("prompt", "prompt_image", "prompt_audio", "prompt_video", "prompt_cached", "text", "audio")

# The published latency table
PREPROCESS = Histogram(
    "antiphon_gateway_preprocess_seconds",
    "Prepare, without its queue. Not of short texts, which the thinker renders.",
    buckets=_LATENCY_S,
)
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

TENANT_FILES_READ = Counter(
    "antiphon_gateway_tenant_files_read_total",
    "How often changed files of tenants were read: ok, or refused, and then the tenants stayed as they were.",
    ("outcome",),
)
for _outcome in ("ok", "refused"):
    TENANT_FILES_READ.labels(_outcome)  # shown from the start, so that a rate sees the first one

CLIENT_SECRETS = Counter(
    "antiphon_gateway_client_secrets_total", "Client secrets that were made, by what they may be used for.", ("scope",)
)

# Limits and metering
LIMIT_REFUSALS = Counter(
    "antiphon_gateway_limit_refusals_total",
    "Requests that a limit refused, by limit and whose it is: key, project or organisation.",
    ("limit", "of"),
)
LIMIT_CUTS = Counter(
    "antiphon_gateway_limit_cuts_total", "Answers that a limit ended, by limit and whose it is.", ("limit", "of")
)
LIMIT_DRAWS = Counter(
    "antiphon_gateway_limit_draws_total",
    "How often running answers drew from limits: prompt, text or speech.",
    ("what",),
)
LIMIT_DRAW_FAILURES = Counter(
    "antiphon_gateway_limit_draw_failures_total",
    "Draws that could not be counted: Redis was away, or the control plane while Redis had lost its counts.",
)
USAGE_LOST = Counter(
    "antiphon_gateway_usage_lost_turns_total", "Turns of gateways that died, which this gateway closed."
)
USAGE_UNCOUNTED = Counter(
    "antiphon_gateway_usage_uncounted_total",
    "Turns whose accounts could not be read at their end: they have their records, and limits do not count them.",
)
USAGE_SPOOL_RECORDS = Gauge(
    "antiphon_gateway_usage_spool_records", "Usage records that wait for Redis, on disk or in memory."
)
USAGE_SPOOL_LOST = Counter(
    "antiphon_gateway_usage_spool_lost_total", "Usage records that found no room in the spool, or could not be read."
)

# What is kept for clients
KEPT_EVICTED = Counter(
    "antiphon_gateway_kept_evicted_total",
    "Kept values that made room before their time was over, by kind (answer, response, idempotency): of the tenant that"
    " keeps more than it may, or that has the most.",
    ("kind",),
)

KEPT_FAILURES = Counter(
    "antiphon_gateway_kept_failures_total",
    "What went out and could not be kept, by kind: answer, response and session where Redis was away or full; audio"
    " where the disk was full, or the object store or the control plane away.",
    ("kind",),
)

# Who waits
WAITING = Gauge("antiphon_gateway_waiting_tickets", "This gateway's tickets that wait.", ("stage", "tenant"))
TENANT_WAIT = Histogram(
    "antiphon_gateway_tenant_queue_wait_seconds",
    "From ticket to grant, as antiphon_gateway_queue_wait_seconds, for each tenant and all stages together.",
    ("tenant",),
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100),
)


# A labelled series is looked up once: the lookup costs more than the count. Labels are few; see above.


@cache
def tokens_of(tenant: str) -> Sequence[Counter]:
    """Return a tenant's TOKENS: prompt, of these image, audio, video and cached; text; audio."""
    return [TOKENS.labels(kind, tenant) for kind in _TOKEN_KINDS]


@cache
def queue_waits(stage: str, tenant: str) -> tuple[Gauge, Histogram, Histogram]:
    """Return WAITING, QUEUE_WAIT and TENANT_WAIT of a stage and a tenant."""
    return WAITING.labels(stage, tenant), QUEUE_WAIT.labels(stage), TENANT_WAIT.labels(tenant)


# Read from the queues' store at each scrape
READY = Gauge("antiphon_gateway_ready", "1 while a request could be answered: /health/ready is 200.")
QUEUE_DEPTH = Gauge("antiphon_queue_depth_tickets", "Tickets that wait.", ("stage", "model"))
QUEUE_AGE = Gauge(
    "antiphon_queue_oldest_wait_seconds",
    "Age of the oldest waiting ticket, but for those of batches that yield to others.",
    ("stage", "model"),
)
QUEUE_WORKERS = Gauge("antiphon_queue_live_workers", "Workers that beat.", ("stage", "model"))
QUEUE_SLOTS = Gauge("antiphon_queue_slots", "Slots of live workers.", ("stage", "model"))
QUEUE_BUSY = Gauge("antiphon_queue_busy_slots", "Slots that are granted or open.", ("stage", "model"))

# Files and batches
FILES = Counter("antiphon_gateway_files_total", "Files that were uploaded, and those that batches made.", ("purpose",))
OBJECT_STORE_FAILURES = Counter(
    "antiphon_gateway_object_store_failures_total", "Reads and writes of the object store that failed."
)
BATCH_LINES = Counter(
    "antiphon_gateway_batch_lines_total",
    "Lines of batches that this gateway ran: completed, failed (an error is their result), returned (to be run again).",
    ("outcome",),
)
BATCH_LINE = Histogram(
    "antiphon_gateway_batch_line_seconds",
    "From the start of a batch's line to its result.",
    buckets=(0.3, 1, 3, 10, 30, 100, 300, 1000),
)
BATCH_RUNNING = Gauge("antiphon_gateway_batch_running_lines", "Lines of batches that this gateway runs.")
BATCH_WAITING = Gauge(
    "antiphon_gateway_batch_waiting_lines", "Lines of all batches that nobody runs, as the control plane last said."
)
BATCHES_OPEN = Gauge(
    "antiphon_gateway_batches_open", "Batches of all tenants that are not over, as the control plane last said."
)
BATCH_JOBS = Counter(
    "antiphon_gateway_batch_jobs_total",
    "Validations, ends and removals of batches by this gateway, by outcome: done, lost (another took over), or failed.",
    ("job", "outcome"),
)
for _outcome in ("completed", "failed", "returned"):
    BATCH_LINES.labels(_outcome)
for _purpose in ("batch", "batch_output", "user_data", "vision", "assistants_output"):
    FILES.labels(_purpose)
for _job in ("validate", "finalize", "remove"):
    for _outcome in ("done", "lost", "failed"):
        BATCH_JOBS.labels(_job, _outcome)
