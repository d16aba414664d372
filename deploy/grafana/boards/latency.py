"""The rows of the published latency table, as they are here."""

from __future__ import annotations

from deploy.grafana.panels import Board, Graph, Query
from deploy.grafana.queries import RATE, quantiles

LATENCY = Board(
    "antiphon-latency",
    "Antiphon / Latency",
    "The rows of the latency table that Qwen3-Omni's technical report publishes (theoretical, audio/video, for 1, 4 "
    "and 6 streams on hardware that it does not name), as they are here.",
    {
        "The published rows": [
            Graph(
                "Preprocessing",
                "Published for the last packet: 72/160, 94/180, 100/200 ms. Here: all of Prepare without its queue.",
                "s",
                quantiles("antiphon_gateway_preprocess_seconds"),
            ),
            Graph(
                "Thinker, first token",
                "Published: 88/160, 468/866, 673/1330 ms.",
                "s",
                quantiles("antiphon_gateway_thinker_first_token_seconds"),
                2,
            ),
            Graph(
                "Talker, first frame",
                "Published: 57/210, 145/450, 376/734 ms. Here: from the first text token to the first codec frame.",
                "s",
                quantiles("antiphon_gateway_talker_first_frame_seconds"),
            ),
            Graph(
                "Code predictor (MTP), a frame",
                "Published: 14, 16, 18 ms. A frame is 80 ms of speech.",
                "s",
                quantiles("antiphon_gateway_predictor_frame_seconds"),
            ),
            Graph(
                "Codec decoder, a frame",
                "Published: 3, 5, 5 ms.",
                "s",
                quantiles("antiphon_gateway_codec_frame_seconds"),
            ),
            Graph(
                "First audio packet",
                "Published: 234/547, 728/1517, 1172/2284 ms. Here: from the request's arrival, queues included.",
                "s",
                quantiles("antiphon_gateway_first_audio_seconds"),
                3,
            ),
            Graph(
                "Real-time factor",
                "From the first token to the last sample, divided by the speech's length. Below 1 keeps up.",
                "short",
                quantiles("antiphon_gateway_real_time_factor_ratio"),
                1,
            ),
            Graph(
                "Thinker, tokens a second",
                "Of one turn's text.",
                "short",
                quantiles("antiphon_gateway_thinker_tokens_per_second"),
            ),
            Graph(
                "Talker, frames a second",
                "Frames per second of one stream. 12.5 is real time.",
                "short",
                quantiles("antiphon_gateway_talker_frames_per_second"),
            ),
        ],
        "Of one request": [
            Graph("First text", "From arrival.", "s", quantiles("antiphon_gateway_first_text_seconds")),
            Graph("Wait for a slot", "By stage.", "s", quantiles("antiphon_gateway_queue_wait_seconds", "stage")),
            Graph("Whole turn", "Of answered turns.", "s", quantiles("antiphon_gateway_turn_seconds")),
            Graph("Talker, a frame", "Mean of a turn.", "s", quantiles("antiphon_gateway_talker_frame_seconds")),
            Graph(
                "Fetch, decode, process",
                "Time of one media item in preprocess.",
                "s",
                quantiles("antiphon_preprocess_stage_seconds", "stage"),
            ),
            Graph("Prepare", "In preprocess.", "s", quantiles("antiphon_preprocess_prepare_seconds")),
        ],
        "Gaps in speech": [
            Graph(
                "Underruns",
                "How often per second a client runs out of samples if it plays speech as it arrives.",
                "short",
                [Query(f"sum(rate(antiphon_gateway_underruns_total{{$ns}}[{RATE}]))", "underruns")],
            ),
            Graph(
                "Silence",
                "Part of the speech's length for which such a client is silent.",
                "percentunit",
                [
                    Query(
                        f"sum(rate(antiphon_gateway_underrun_seconds_total{{$ns}}[{RATE}]))"
                        f" / (0.08 * sum(rate(antiphon_talker_frames_total{{$ns}}[{RATE}])))",
                        "silence",
                    )
                ],
                0.01,
            ),
        ],
    },
)
