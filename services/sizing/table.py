"""The documented minimum of GPU memory. It is written down here alone.

Source: the model card of Qwen3-Omni-30B-A3B. It is a theoretical minimum for transformers in BF16 with FlashAttention 2
and one request: not a measurement, and not of vLLM. The card says GB; from 15 s down to none its rows come to 59.7,
which is the size of the thinker's 31.7 · 10⁹ BF16 weights in GiB, so they are read as GiB, the larger unit.
"""

from __future__ import annotations

from dataclasses import dataclass

VIDEO_S = (15, 30, 60, 120)
"""The table's columns: seconds of video."""

DOCUMENTED_GIB = {
    "instruct": (78.85, 88.52, 107.74, 144.81),
    "thinking": (68.74, 77.79, 95.76, 131.65),
}
"""Checkpoint → memory of the whole checkpoint for each of VIDEO_S."""

NOTE = (
    "The memory table is the model's documents': a theoretical minimum for transformers in BF16 with FlashAttention 2, "
    "not a measurement of this stack."
)
TALKER_NOTE = (
    "Measured: on one H100 80GB, with weights of the released sizes, 512 streams with room for 2048 frames each took "
    "28.6 GB beside 7.7 GB of weights. With prompt and speech under 512 tokens they took three quarters of real time. "
    "Longer speech and other GPUs are not measured."
)
CAPTIONER_NOTE = "The documents have no row for the Captioner: it is taken as Thinking at 15 s, an estimate."


@dataclass(frozen=True)
class Model:
    """A checkpoint that can be sized."""

    name: str
    repository: str
    """On the hub."""
    speaks: bool
    video_s: tuple[int, ...]
    """The lengths that can be asked for. The Captioner takes no video: 15 stands for its estimate."""


MODELS = {
    "instruct": Model("instruct", "Qwen/Qwen3-Omni-30B-A3B-Instruct", speaks=True, video_s=VIDEO_S),
    "thinking": Model("thinking", "Qwen/Qwen3-Omni-30B-A3B-Thinking", speaks=False, video_s=VIDEO_S),
    "captioner": Model("captioner", "Qwen/Qwen3-Omni-30B-A3B-Captioner", speaks=False, video_s=VIDEO_S[:1]),
}

# The thinker's own numbers: its config.json.
QUERY_HEADS = 32
KV_HEADS = 4
TENSOR_PARALLEL = (1, 2, 4, 8)
"""Sizes that divide the query heads and fit a node. With 8, each KV head is on two GPUs."""

# Billions of parameters in BF16: 30.5 thinker, 0.65 audio and 0.54 vision encoder; 3 talker, 0.08 predictor, 0.2
# code2wav, and the talker's copy of the thinker's embeddings (152064 · 2048).
THINKER_WEIGHTS_GB = 64
TALKER_WEIGHTS_GB = 8
VIDEO_TOKENS_PER_S = 768
"""Of a video's prompt, at most: preprocess samples 2 frames a second and gives two of them so many tokens."""
AUDIO_TOKENS_PER_S = 13
ITEM_TOKENS = 32768
"""The most tokens of one film that preprocess takes."""
FIRST_STAGE_GIB = 3.0
"""Derived: both encoders and the embeddings (152064 · 2048) in BF16, which only the first stage of a pipeline has."""


def documented_gib(model: str, video_s: int) -> float:
    """Return a cell of the table. Raise KeyError for a model or a length without a cell."""
    return dict[int, float](zip(VIDEO_S, DOCUMENTED_GIB[model], strict=True))[video_s]


def thinker_gib(model: str, video_s: int) -> float:
    """Return the thinker's memory. Derived: Thinking is the thinker alone, so its row holds for Instruct's too."""
    del model
    return documented_gib("thinking", video_s)


def prompt_tokens(video_s: int) -> int:
    """Return the most tokens of a prompt with one film, with sound, of so many seconds. Derived."""
    return min(VIDEO_TOKENS_PER_S * video_s, ITEM_TOKENS) + AUDIO_TOKENS_PER_S * video_s
