"""Inside the thinker and the talker, and their GPUs."""

from __future__ import annotations

from deploy.grafana.panels import Board, Graph, Query
from deploy.grafana.queries import RATE, quantiles, rate

ENGINES = Board(
    "antiphon-engines",
    "Antiphon / Engines and GPUs",
    "Inside the thinker and the talker, and the GPUs that they run on.",
    {
        "Thinker": [
            Graph(
                "KV cache in use",
                "Used part of the KV cache. Near 1, requests wait or are preempted.",
                "percentunit",
                [Query("antiphon_thinker_kv_cache_ratio{$ns}", "{{instance}}")],
                0.95,
            ),
            Graph(
                "Requests in the engine",
                "Requests in the batch and requests that wait inside the engine.",
                "short",
                [
                    Query("antiphon_thinker_running_requests{$ns}", "{{instance}} in the batch"),
                    Query("antiphon_thinker_waiting_requests{$ns}", "{{instance}} waiting"),
                ],
            ),
            Graph(
                "Tokens",
                "Tokens per second: prompts, those of them from the prefix cache, and generated.",
                "short",
                [
                    rate("antiphon_thinker_prompt_tokens_total", "job", "prompts"),
                    rate("antiphon_thinker_cached_tokens_total", "job", "from the cache"),
                    rate("antiphon_thinker_tokens_total", "job", "generated"),
                ],
            ),
            Graph("First token", "In the engine.", "s", quantiles("antiphon_thinker_engine_first_token_seconds")),
            Graph("Between tokens", "Of one stream.", "s", quantiles("antiphon_thinker_token_interval_seconds")),
            Graph("Features", "Pulled from preprocess.", "s", quantiles("antiphon_thinker_features_seconds")),
            Graph("Turns by outcome", "Of Generate.", "reqps", [rate("antiphon_thinker_turns_total", "outcome")]),
            Graph(
                "Put back",
                "Requests per second that were preempted because the cache was full.",
                "short",
                [rate("antiphon_thinker_preemptions_total", "instance")],
            ),
            Graph(
                "Talker's KV cache",
                "Blocks of 64 tokens: all, and those in use. Streams pause when there are none left.",
                "short",
                [
                    Query("antiphon_talker_kv_blocks{$ns}", "{{instance}} all"),
                    Query("antiphon_talker_kv_blocks_in_use{$ns}", "{{instance}} in use"),
                    rate("antiphon_talker_preemptions_total", "instance", "{{instance}} paused a second"),
                ],
            ),
            Graph(
                "Engine's answer",
                "Age of the question that an engine answers between two steps. It hangs where this grows.",
                "s",
                [
                    Query("antiphon_thinker_engine_answer_seconds{$ns}", "{{instance}} thinker"),
                    Query("antiphon_talker_engine_answer_seconds{$ns}", "{{instance}} talker"),
                    Query("antiphon_preprocess_processor_answer_seconds{$ns}", "{{instance}} preprocess"),
                ],
            ),
            Graph(
                "Kept tensors",
                "Hidden states for talkers, cached media features, and features in preprocess.",
                "bytes",
                [
                    Query("antiphon_thinker_hidden_states_bytes{$ns}", "{{instance}} hidden states"),
                    Query("antiphon_thinker_feature_cache_bytes{$ns}", "{{instance}} features"),
                    Query("antiphon_preprocess_feature_bytes{$ns}", "{{instance}} preprocess"),
                ],
            ),
            Graph(
                "Requests that hold features",
                "In preprocess, for a thinker to fetch.",
                "short",
                [Query("antiphon_preprocess_held_requests{$ns}", "{{instance}}")],
            ),
            Graph(
                "Engine lives", "1 while it does.", "short", [Query("antiphon_thinker_engine_up{$ns}", "{{instance}}")]
            ),
        ],
        "Talker": [
            Graph(
                "Work for a second of speech",
                "Seconds; below 1 keeps up.",
                "short",
                quantiles("antiphon_talker_real_time_factor_ratio"),
                1,
            ),
            Graph(
                "Streams",
                "Running streams, streams in the last step's batch, and slots.",
                "short",
                [
                    Query("antiphon_talker_live_streams{$ns}", "{{instance}}"),
                    Query(
                        "rate(antiphon_talker_batch_streams_sum{$ns}[$__rate_interval])"
                        " / rate(antiphon_talker_batch_streams_count{$ns}[$__rate_interval])",
                        "{{instance}} in a step",
                    ),
                    Query("antiphon_talker_slots{$ns}", "{{instance}} slots"),
                ],
            ),
            Graph(
                "KV cache",
                "Memory reserved for all streams.",
                "bytes",
                [Query("antiphon_talker_kv_cache_bytes{$ns}", "{{instance}}")],
            ),
            Graph(
                "Frames", "A second; 12.5 are one voice.", "short", [rate("antiphon_talker_frames_total", "instance")]
            ),
            Graph("First frame", "At the talker.", "s", quantiles("antiphon_talker_first_frame_seconds")),
            Graph(
                "Steps",
                "Time of the talker's step, the code predictor and the codec.",
                "s",
                [
                    *quantiles("antiphon_talker_step_seconds"),
                    *quantiles("antiphon_talker_predictor_seconds"),
                    *quantiles("antiphon_talker_codec_seconds"),
                ],
            ),
            Graph("Ends", "How answers end.", "reqps", [rate("antiphon_talker_stream_ends_total", "end")]),
            Graph(
                "Derailments",
                "Speech that no longer followed its text: why, and whether it was spoken again or ended.",
                "reqps",
                [
                    Query(
                        "sum by (why, done) (rate(antiphon_talker_derailments_total{$ns}[$__rate_interval]))",
                        "{{why}} {{done}}",
                    )
                ],
            ),
        ],
        "GPUs (NVIDIA's dcgm-exporter)": [
            Graph(
                "GPU memory",
                "In use.",
                "decmbytes",
                [Query('DCGM_FI_DEV_FB_USED{$ns, pod=~".*(thinker|talker).*"}', "{{pod}} GPU {{gpu}}")],
            ),
            Graph(
                "GPU busy",
                "Part of the time in which a kernel runs.",
                "percent",
                [Query('DCGM_FI_DEV_GPU_UTIL{$ns, pod=~".*(thinker|talker).*"}', "{{pod}} GPU {{gpu}}")],
            ),
            Graph(
                "Power",
                "Of each GPU.",
                "watt",
                [Query('DCGM_FI_DEV_POWER_USAGE{$ns, pod=~".*(thinker|talker).*"}', "{{pod}} GPU {{gpu}}")],
            ),
        ],
        "Processes": [
            Graph(
                "Memory",
                "Resident, of each process.",
                "bytes",
                [Query('process_resident_memory_bytes{$ns, job=~"antiphon-.*"}', "{{job}} {{instance}}")],
            ),
            Graph(
                "Processor",
                "Cores in use.",
                "short",
                [Query(f'rate(process_cpu_seconds_total{{$ns, job=~"antiphon-.*"}}[{RATE}])', "{{job}} {{instance}}")],
            ),
        ],
    },
)
