"""The documented minimum of GPU memory, the one place where it stands.

Source: the model card of Qwen3-Omni-30B-A3B. It is a theoretical minimum for transformers in BF16 with FlashAttention 2
and one request: not a measurement, and not of vLLM. The card says GB; from 15 s down to none its rows come to 59.7,
which is the size of the thinker's 31.7 · 10⁹ BF16 weights in GiB, so they are read as GiB, the larger unit.
"""

from __future__ import annotations

from dataclasses import dataclass

VIDEO_S = (15, 30, 60, 120)
"""Seconds of video that the table has a column for."""

DOCUMENTED_GIB = {
    "instruct": (78.85, 88.52, 107.74, 144.81),
    "thinking": (68.74, 77.79, 95.76, 131.65),
}
"""Checkpoint → the whole checkpoint's memory for each of VIDEO_S."""

NOTE = (
    "The memory table is the model's documents': a theoretical minimum for transformers in BF16 with FlashAttention 2, "
    "not a measurement of this stack."
)
TALKER_NOTE = (
    "Measured: on one H100 80GB, with weights of the released sizes, 512 streams with room for 2048 frames each took "
    "28.6 GB beside 7.7 GB of weights, and speech of up to 13 s took three quarters of real time. Longer speech and "
    "other GPUs are not measured."
)
CAPTIONER_NOTE = "The documents have no row for the Captioner: it is taken as Thinking at 15 s, an estimate."


@dataclass(frozen=True)
class Model:
    """A checkpoint as the sizes know it."""

    name: str
    repository: str
    """On the hub."""
    speaks: bool
    video_s: tuple[int, ...]
    """What may be asked for; the Captioner takes no video, its 15 stands for its estimate."""


MODELS = {
    "instruct": Model("instruct", "Qwen/Qwen3-Omni-30B-A3B-Instruct", speaks=True, video_s=VIDEO_S),
    "thinking": Model("thinking", "Qwen/Qwen3-Omni-30B-A3B-Thinking", speaks=False, video_s=VIDEO_S),
    "captioner": Model("captioner", "Qwen/Qwen3-Omni-30B-A3B-Captioner", speaks=False, video_s=VIDEO_S[:1]),
}

# The thinker's own numbers: its config.json.
QUERY_HEADS = 32
KV_HEADS = 4
TENSOR_PARALLEL = (1, 2, 4, 8)
"""What divides the query heads and fits a node; with 8 each KV head is on two GPUs."""

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
"""Derived: what only the first stage of a pipeline has, both encoders and the embeddings (152064 · 2048), in BF16."""


def documented_gib(model: str, video_s: int) -> float:
    """A cell of the table. Raises KeyError for a model or a length without a cell."""
    return dict[int, float](zip(VIDEO_S, DOCUMENTED_GIB[model], strict=True))[video_s]


def thinker_gib(model: str, video_s: int) -> float:
    """Derived: Thinking is the thinker alone, so its row holds for Instruct's thinker too."""
    del model
    return documented_gib("thinking", video_s)


def prompt_tokens(video_s: int) -> int:
    """Derived: the most tokens of a prompt with one heard film of so many seconds."""
    return min(VIDEO_TOKENS_PER_S * video_s, ITEM_TOKENS) + AUDIO_TOKENS_PER_S * video_s
