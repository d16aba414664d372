"""Sampling parameters: the request's, else the checkpoint's generation_config's, else vLLM's defaults."""

from __future__ import annotations

from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from antiphon.v1 import thinker_pb2
from services.common.errors import BadInput, ContextTooLong
from services.thinker.checkpoint import Checkpoint

# Keys of SamplingParams.extra_args, which our code inside the engine reads.
# {"id": str, "spans": [[start, end), …]}: the prompt's hidden states that hidden_states.connector sends.
HIDDEN_STATES = "antiphon_hidden_states"
# Number of tokens at the prompt's end that another worker generated: engine.model_runner counts them as output.
EARLIER_TOKENS = "antiphon_earlier_tokens"
# Number of these that engine.structured_outputs gives the grammar: those of a chain of thought are not its.
STRUCTURED_TOKENS = "antiphon_structured_tokens"
# The token after which the grammar begins; absent = it has begun.
END_OF_THOUGHT = "antiphon_end_of_thought"

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20


class SamplingDefaults:
    """The values of generation_config.json, for requests that set none. do_sample = false means greedy."""

    def __init__(self, checkpoint: Checkpoint, default_max_tokens: int) -> None:
        self.vocab_size = checkpoint.vocab_size
        self.max_model_len = checkpoint.card.max_model_len
        self.default_max_tokens = default_max_tokens
        config = checkpoint.generation_config
        known = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        self.values: dict[str, Any] = {key: config[key] for key in known if config.get(key) is not None}
        if config.get("do_sample") is False:
            self.values["temperature"] = 0.0


def sampling_params(
    asked: thinker_pb2.ThinkerSampling,
    defaults: SamplingDefaults,
    *,
    prompt_tokens: int,
    earlier_tokens: int = 0,
) -> SamplingParams:
    """Return vLLM's parameters for the rest of an answer; another worker generated its first `earlier_tokens`.

    Stop strings are not among them: answer.py finds them in the text. Raise BadInput naming the field, ContextTooLong
    where prompt and answer exceed the model's length.
    """
    values = dict(defaults.values)
    for name, (low, high) in _RANGES.items():
        if asked.HasField(name):  # pyright: ignore[reportArgumentType]  # a key of _RANGES
            value = round(getattr(asked, name), 7)  # a proto float is 32 bits wide: 0.95, not 0.949999988
            if not low <= value <= high or (name == "top_p" and value == 0):
                raise BadInput(f"{name} must be {_wording(name, low, high)}", param=name)
            values[name] = value
    if asked.HasField("top_k"):
        if asked.top_k < -1:
            raise BadInput("top_k must be 0 (off) or at least 1", param="top_k")
        values["top_k"] = max(asked.top_k, 0)
    if asked.HasField("seed"):
        values["seed"] = asked.seed % 2**64  # as torch reads a negative seed; to vLLM, -1 means no seed
    max_tokens = longest_answer(asked, defaults, prompt_tokens)
    if asked.min_tokens > max_tokens:
        raise BadInput(f"min_tokens must be at most max_tokens ({max_tokens})", param="min_tokens")
    if asked.top_logprobs > MAX_TOP_LOGPROBS:
        raise BadInput(f"top_logprobs must be at most {MAX_TOP_LOGPROBS}", param="top_logprobs")
    bias = _logit_bias(asked, defaults)
    _check_stops(asked, defaults)
    return SamplingParams(
        **values,
        stop_token_ids=list(asked.stop_token_ids),
        max_tokens=max(max_tokens - earlier_tokens, 1),
        min_tokens=max(asked.min_tokens - earlier_tokens, 0),
        ignore_eos=asked.ignore_eos,
        logit_bias=bias or None,
        logprobs=asked.top_logprobs if asked.HasField("top_logprobs") else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={EARLIER_TOKENS: earlier_tokens},
        skip_clone=True,
    )


# Inclusive. A NaN is outside all of them.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 10.0),
}


def check_structured(asked: thinker_pb2.ThinkerSampling) -> None:
    """Raise BadInput where the sampling contradicts a structure: only the end of the structure may end the answer."""
    for name in ("min_tokens", "ignore_eos", "stop_token_ids"):
        if getattr(asked, name):
            raise BadInput(
                f"{name} cannot be combined with a structured answer or tool calls; leave it out", param=name
            )


def _wording(name: str, low: float, high: float) -> str:
    return f"above {low:g} and at most {high:g}" if name == "top_p" else f"between {low:g} and {high:g}"


def longest_answer(asked: thinker_pb2.ThinkerSampling, defaults: SamplingDefaults, prompt_tokens: int) -> int:
    """Return max_tokens or, where unset, what the model's length leaves. Raise BadInput or ContextTooLong."""
    room = defaults.max_model_len - prompt_tokens
    if not asked.HasField("max_tokens"):
        return min(room, defaults.default_max_tokens)
    if asked.max_tokens < 1:
        raise BadInput("max_tokens must be at least 1", param="max_tokens")
    if asked.max_tokens > room:
        raise ContextTooLong(
            f"this model's maximum context length is {defaults.max_model_len} tokens, but {prompt_tokens} in the "
            f"messages and {asked.max_tokens} in the answer were asked for; shorten the messages or lower max_tokens",
            param="max_tokens",
        )
    return asked.max_tokens


def _logit_bias(asked: thinker_pb2.ThinkerSampling, defaults: SamplingDefaults) -> dict[int, float]:
    if len(asked.logit_bias) > MAX_LOGIT_BIASES:
        raise BadInput(f"logit_bias must have at most {MAX_LOGIT_BIASES} tokens", param="logit_bias")
    for token, bias in asked.logit_bias.items():
        if token >= defaults.vocab_size:
            raise BadInput(
                f"logit_bias: token {token} is outside the vocabulary; ids go from 0 to {defaults.vocab_size - 1}",
                param="logit_bias",
            )
        if not -100 <= bias <= 100:
            raise BadInput("logit_bias values must be between -100 and 100", param="logit_bias")
    return dict(asked.logit_bias)


def _check_stops(asked: thinker_pb2.ThinkerSampling, defaults: SamplingDefaults) -> None:
    if len(asked.stop) > MAX_STOP_STRINGS:
        raise BadInput(f"stop must have at most {MAX_STOP_STRINGS} strings", param="stop")
    if not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in asked.stop):
        raise BadInput(f"stop strings must have 1 to {MAX_STOP_CHARACTERS} characters", param="stop")
    if len(asked.stop_token_ids) > MAX_STOP_TOKENS:
        raise BadInput(f"stop_token_ids must have at most {MAX_STOP_TOKENS} tokens", param="stop_token_ids")
    if any(token >= defaults.vocab_size for token in asked.stop_token_ids):
        raise BadInput(
            f"stop_token_ids: a token is outside the vocabulary; ids go from 0 to {defaults.vocab_size - 1}",
            param="stop_token_ids",
        )
