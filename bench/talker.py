"""Compare the talker engine with transformers, in one run on the CPU.

    python -m bench.talker [--rounds 5] [--json bench/results/talker.json]

1. Frames a second with 1, 4 and 16 streams. transformers runs the talker's generate and code2wav's decode, one request
   after the other. Both sides get the same requests on the tiny checkpoint, and their codes must be equal.
2. The time from the answer's first token to the first frame's samples, after the prefill.
3. The codec at a medium size: the cost of a frame with state, by single frames and by 25, and of a frame that
   re-decodes 25 frames of context; and the largest difference from the samples of one decode of all frames.

The sides alternate round by round on one thread. Figures are medians over rounds.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeCode2WavConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeCode2Wav

from bench.machine import machine
from bench.report import arguments_parser, report
from services.local.cache import default_cache_dir
from services.local.checkpoint.cached import cached_checkpoint
from services.local.checkpoint.kinds import Kind
from services.talker.checkpoint import load_speech_models
from services.talker.code2wav.decoder import CodecDecoder
from services.talker.cpu_traces import TracedCall
from services.talker.engine import SpeechEngine
from services.talker.memory import budget_bytes, plan_memory
from services.talker.stream import SpeechRequest
from tests.fixtures.oracle import Oracle, OracleResult, TalkerOptions, ThinkerOptions
from tests.fixtures.wait import wait_until
from tests.talker.cases import CASES
from tests.talker.speech import request_of

STREAMS = (1, 4, 16)
FRAMES, TOKENS = 60, 70
CONTEXT = 25  # frames that other servers re-decode with each chunk
CODEC_FRAMES = 100
CODEC_WARM_UP = 10  # so that frequent shapes are traced, also those of 25 frames


class Transformers:
    """Measures the talker and code2wav inside generate()."""

    def __init__(self, model_dir: Path) -> None:
        self.oracle = Oracle(model_dir)
        self.inputs = self.oracle.inputs(CASES["text"].messages)
        self.seconds = 0.0

    def speak(self, options: TalkerOptions) -> OracleResult:
        talker: Any = self.oracle.model.talker
        generate = type(talker).generate

        def timed(**kwargs: Any) -> Any:
            began_s = time.perf_counter()
            result = generate(talker, **kwargs)
            self.seconds = time.perf_counter() - began_s
            return result

        talker.generate = timed
        thinker = ThinkerOptions(max_new_tokens=TOKENS, min_new_tokens=TOKENS)
        answer = self.oracle.generate_from_inputs(self.inputs, thinker=thinker, talker=options)
        vars(talker).pop("generate", None)
        self.seconds += timed_s(lambda: self.oracle.decode(answer.codes))
        return answer


def timed_s(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


async def speak_all(engine: SpeechEngine, asked: list[tuple[SpeechRequest, OracleResult]]) -> tuple[float, float]:
    """Return the seconds for all requests at once, and the first request's seconds from first token to first frame."""
    streams = [engine.submit(request) for request, _ in asked]
    await wait_until(lambda: streams[0].state.is_prefilled)
    first_s = 0.0
    began_s = time.perf_counter()

    async def listen(index: int) -> None:
        nonlocal first_s
        expected = asked[index][1]
        streams[index].feed(expected.token_ids, is_last=True)
        codes: list[list[int]] = []
        async for chunk in streams[index]:
            if index == 0 and not codes:
                first_s = time.perf_counter() - began_s
            codes += chunk.codes.tolist()
        if codes != expected.codes.tolist():
            raise SystemExit("the engine's codes are not transformers'")

    await asyncio.gather(*(listen(index) for index in range(len(asked))))
    return time.perf_counter() - began_s, first_s


def measure_engine(rounds: int) -> dict[str, Any]:
    model_dir = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    theirs = Transformers(model_dir)
    models = load_speech_models(model_dir)
    options = [TalkerOptions(seed=seed, max_frames=FRAMES) for seed in range(max(STREAMS))]
    answers = [theirs.speak(each) for each in options]
    requests = [request_of(models.config, answer, each) for answer, each in zip(answers, options, strict=True)]
    engine = SpeechEngine(models, memory=plan_memory(models, budget_bytes(models), slots=max(STREAMS)))
    engine.start()
    their_rate: list[float] = []
    our_rate: dict[int, list[float]] = {count: [] for count in STREAMS}
    first: list[float] = []
    for number in range(rounds + 1):
        frames, seconds = 0, 0.0
        for each in options[:4]:
            frames += len(theirs.speak(each).codes)
            seconds += theirs.seconds
        if number:  # the first round is the warm-up
            their_rate.append(frames / seconds)
        for count in STREAMS:
            asked = list(zip(requests[:count], answers[:count], strict=True))
            seconds, first_s = asyncio.run(speak_all(engine, asked))
            if number:
                our_rate[count].append(sum(len(answer.codes) for _, answer in asked) / seconds)
                if count == 1:
                    first.append(first_s)
    engine.close()
    baseline = median(their_rate)
    return {
        "transformers_frames_per_s": baseline,
        "engine_frames_per_s": {str(count): median(rates) for count, rates in our_rate.items()},
        "times_transformers": {str(count): median(rates) / baseline for count, rates in our_rate.items()},
        "first_frame_ms": median(first) * 1000,
    }


def middle_codec() -> Any:
    config = Qwen3OmniMoeCode2WavConfig(
        hidden_size=256,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=768,
        num_hidden_layers=8,
        decoder_dim=384,
        codebook_size=2048,
        num_quantizers=16,
        sliding_window=72,
    )
    torch.manual_seed(0)
    codec = Qwen3OmniMoeCode2Wav(config).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if "scale" in name or "gamma" in name:  # near zero in a new model, so the transformer would have no effect
                parameter.fill_(0.3)
    return codec


class StatefulCodec:
    """The codec with state, as a step runs it."""

    def __init__(self, codec: Any, group: int) -> None:
        self._decoder = CodecDecoder(codec, frames_at_once=group)
        self._decode = TracedCall(self._decoder.decode, self._decoder.state)
        self._group = group

    @torch.inference_mode()
    def __call__(self, codes: Tensor) -> Tensor:
        one, parts = torch.tensor([1]), list[Tensor]()
        for before in range(0, len(codes), self._group):
            part, num_past_frames = (
                codes[None, before : before + self._group],
                min(before, self._decoder.settled_frames),
            )
            parts.append(self._decode(one, torch.tensor([before]), part, num_past_frames=num_past_frames)[0])
        return torch.cat(parts)


@torch.inference_mode()
def decoded_again(codec: Any, codes: Tensor, group: int) -> Tensor:
    """Decode each group again with CONTEXT frames before it and drop their samples, as other servers do."""
    parts: list[Tensor] = []
    for before in range(0, len(codes), group):
        begin = max(before - CONTEXT, 0)
        parts.append(codec(codes[None, begin : before + group].transpose(1, 2)).reshape(-1)[(before - begin) * 1920 :])
    return torch.cat(parts)


def measure_codec(rounds: int) -> dict[str, Any]:
    codec = middle_codec()
    codes = torch.randint(0, 2048, (CODEC_FRAMES, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = codec(codes.T[None]).reshape(-1)
    result: dict[str, Any] = {"signal_std": float(whole.std())}
    for group in (1, 25):
        stateful = StatefulCodec(codec, group)
        for _ in range(CODEC_WARM_UP):
            stateful(codes)
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(rounds + 1):
            our_s = timed_s(lambda stateful=stateful: stateful(codes))
            their_s = timed_s(lambda group=group: decoded_again(codec, codes, group))
            if number:
                ours.append(our_s / len(codes) * 1000)
                theirs.append(their_s / len(codes) * 1000)
        result[f"by_{group}"] = {
            "kept_state_ms_per_frame": median(ours),
            "decoded_again_ms_per_frame": median(theirs),
            "times_cheaper": median(theirs) / median(ours),
            "largest_difference": float((stateful(codes) - whole).abs().max()),
        }
    return result


def main() -> None:
    parser = arguments_parser("The talker engine against transformers.")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        "command": f"python -m bench.talker --rounds {arguments.rounds}",
        "machine": machine(),
        "engine": measure_engine(arguments.rounds),
        "codec": measure_codec(arguments.rounds),
    }
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
