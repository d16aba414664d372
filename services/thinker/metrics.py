"""The thinker's Prometheus metrics. The only label is the outcome of a turn."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

TURNS = Counter(
    "antiphon_thinker_turns",
    "Generate calls by how they ended: finished, refused (the request was wrong), cancelled, timed_out, failed.",
    ("outcome",),
)
FIRST_TOKEN = Histogram(
    "antiphon_thinker_engine_first_token_seconds", "From the Generate call to the first token.", buckets=_SECONDS
)
FEATURE_PULL = Histogram(
    "antiphon_thinker_features_seconds", "Fetching and checking a turn's features.", buckets=_SECONDS
)
TOKEN_INTERVAL = Histogram(
    "antiphon_thinker_token_interval_seconds",
    "Between two messages of a stream.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
)
PROMPT_TOKENS = Counter("antiphon_thinker_prompt_tokens", "Tokens of prompts.")
CACHED_TOKENS = Counter("antiphon_thinker_cached_tokens", "Prompt tokens that came from the prefix cache.")
TOKENS = Counter("antiphon_thinker_tokens", "Tokens generated.")
RUNNING = Gauge("antiphon_thinker_running_requests", "Requests in the engine's batch.")
WAITING = Gauge("antiphon_thinker_waiting_requests", "Requests that wait inside the engine.")
KV_CACHE = Gauge("antiphon_thinker_kv_cache_ratio", "Fraction of the KV cache's blocks in use.")
PREEMPTIONS = Counter("antiphon_thinker_preemptions", "Requests preempted because the KV cache was full.")
HIDDEN_STATES_BYTES = Gauge("antiphon_thinker_hidden_states_bytes", "Hidden states held for talkers.")
FEATURE_CACHE_BYTES = Gauge("antiphon_thinker_feature_cache_bytes", "Media features cached for the next turn.")
ENGINE_ANSWER = Gauge(
    "antiphon_thinker_engine_answer_seconds", "Age of the question that the engine answers between two steps."
)
ENGINE_UP = Gauge("antiphon_thinker_engine_up", "1 while the engine runs.")


class EngineStats(StatLoggerBase):
    """Sets the gauges from vLLM's scheduler statistics after each step."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        pass

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is not None:
            RUNNING.set(scheduler_stats.num_running_reqs)
            WAITING.set(scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs)
            KV_CACHE.set(scheduler_stats.kv_cache_usage)
        if iteration_stats is not None and iteration_stats.num_preempted_reqs:
            PREEMPTIONS.inc(iteration_stats.num_preempted_reqs)

    def log_engine_initialized(self) -> None:
        pass
