"""The talker engine at the released size, on a GPU, with random weights: nothing is downloaded.

    python -m bench.talker_gpu [--json bench/results/talker_gpu.json]

Prints, for 1 to 512 voices: milliseconds a frame of talker, of draws with predictor, and of codec; the first frame's
latency; what the whole engine gives so many clients, so how many voices one GPU holds in real time (12.5 frames a
second each); how far codes agree alone and in a batch; how long a start compiles; memory; and transformers' generate
with code2wav's decode beside them, on the same weights in the same run. `--device cpu --size small` only shows that it
runs.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from statistics import median
from typing import Any, cast

import torch
from torch import nn
from transformers import Qwen3OmniMoeConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeCode2Wav,
    Qwen3OmniMoeTalkerForConditionalGeneration,
)

from bench.machine import machine
from bench.report import arguments_parser, report
from bench.talker_exactness import compare, speak_all
from services.talker.checkpoint import SpeechConfig, SpeechModels
from services.talker.engine import SpeechEngine
from services.talker.kv_cache import blocks_for
from services.talker.memory import budget_bytes, plan_memory
from services.talker.sampling import SamplingParams
from services.talker.speaker import Speaker
from services.talker.step import StepInput, StepTimes
from services.talker.stream import SpeechRequest
from tests.fixtures.wait import wait_until
from tests.talker.speech import prompt_of_length

BATCHES = (1, 4, 16, 64, 256, 512)
FRAMES_PER_S = 12.5
PROMPT_TOKENS = 200
FRAMES_BEFORE = 100  # the streams are in the midst of an answer
STEPS = 20


@dataclass(frozen=True)
class Size:
    """Sizes of the released checkpoint, or of a small one of the same shape."""

    layers: int
    hidden: int
    experts: int
    predictor_layers: int
    codec_layers: int
    codec_hidden: int
    decoder_dim: int
    text_vocabulary: int
    thinker_hidden: int


SIZES = {
    "released": Size(20, 1024, 128, 5, 8, 1024, 1536, 152_064, 2048),
    "small": Size(2, 64, 8, 1, 1, 64, 64, 160_000, 64),
}


def config_of(size: Size) -> Any:
    """The released checkpoint's ids and ratios."""
    head_dim = 128 if size.hidden >= 1024 else 16
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    talker = {
        "text_config": {
            "vocab_size": 3072,
            "hidden_size": size.hidden,
            "intermediate_size": 2 * size.hidden,
            "moe_intermediate_size": size.hidden * 3 // 8,
            "shared_expert_intermediate_size": size.hidden * 3 // 4,
            "num_hidden_layers": size.layers,
            "num_attention_heads": 16 if size.hidden >= 1024 else 4,
            "num_key_value_heads": 2,
            "head_dim": head_dim,
            "num_experts": size.experts,
            "num_experts_per_tok": 6,
            "norm_topk_prob": True,
            "max_position_embeddings": 65_536,
            "rope_parameters": rope | {"mrope_section": [head_dim * 3 // 16, head_dim * 5 // 32, head_dim * 5 // 32]},
        },
        "code_predictor_config": {
            "vocab_size": 2048,
            "hidden_size": size.hidden,
            "intermediate_size": 3 * size.hidden,
            "num_hidden_layers": size.predictor_layers,
            "num_attention_heads": 16 if size.hidden >= 1024 else 4,
            "num_key_value_heads": 8 if size.hidden >= 1024 else 2,
            "head_dim": head_dim,
            "num_code_groups": 16,
            "rope_parameters": rope,
        },
        "num_code_groups": 16,
        "thinker_hidden_size": size.thinker_hidden,
        "codec_pad_id": 2148,
        "codec_bos_id": 2149,
        "codec_eos_token_id": 2150,
        "codec_nothink_id": 2155,
        "codec_think_bos_id": 2156,
        "codec_think_eos_id": 2157,
        "speaker_id": {"chelsie": 2301, "ethan": 2302, "aiden": 2303},
        "audio_token_id": 151_675,
        "image_token_id": 151_655,
        "video_token_id": 151_656,
        "audio_start_token_id": 151_669,
        "vision_start_token_id": 151_652,
        "position_id_per_seconds": 13,
        "spatial_merge_size": 2,
    }
    heads = 16 if size.codec_hidden >= 1024 else 4
    code2wav = {
        "codebook_size": 2048,
        "hidden_size": size.codec_hidden,
        "intermediate_size": 3 * size.codec_hidden,
        "num_hidden_layers": size.codec_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "num_quantizers": 16,
        "sliding_window": 72,
        "decoder_dim": size.decoder_dim,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    config: Any = Qwen3OmniMoeConfig(
        thinker_config={"audio_token_id": 151_675, "image_token_id": 151_655, "video_token_id": 151_656},
        talker_config=talker,
        code2wav_config=code2wav,
        enable_audio_output=True,
        im_start_token_id=151_644,
        user_token_id=872,
        assistant_token_id=77_091,
        tts_pad_token_id=151_671,
        tts_bos_token_id=151_672,
        tts_eos_token_id=151_673,
    )
    config.thinker_config.text_config.vocab_size = size.text_vocabulary
    return config


def random_models(size: Size, device: torch.device, dtype: torch.dtype) -> SpeechModels:
    config = config_of(size)
    torch.manual_seed(0)
    modules: list[Any] = []
    with torch.device(device):
        for cls, part in (
            (Qwen3OmniMoeTalkerForConditionalGeneration, config.talker_config),
            (Qwen3OmniMoeCode2Wav, config.code2wav_config),
        ):
            module = cast(nn.Module, cls(part)).to(dtype).eval().requires_grad_(False)
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.02)
            modules.append(module)
        embedding = torch.randn(size.text_vocabulary, size.thinker_hidden, dtype=dtype)
    return SpeechModels(SpeechConfig.from_config(config), modules[0], modules[1], embedding)


def measure_steps(speaker: Speaker, most: int) -> dict[str, Any]:
    """Medians over steps of streams in the midst of their answers, each read before the next is begun."""
    with speaker.cuda_stream.activate():
        pages = blocks_for(PROMPT_TOKENS + FRAMES_BEFORE + STEPS + 3)
        for slot in range(1, most + 1):
            speaker.open(slot, range(1 + (slot - 1) * pages, 1 + slot * pages), SamplingParams(seed=slot))
        return {str(batch): _measure_steps_of(speaker, batch) for batch in BATCHES if batch <= most}


def _measure_steps_of(speaker: Speaker, batch: int) -> dict[str, float]:
    walls: list[float] = []
    all_times: list[StepTimes] = []
    for step in range(STEPS + 3):
        frame = FRAMES_BEFORE + step
        rows = [
            StepInput(slot, 872, PROMPT_TOKENS + frame, float(PROMPT_TOKENS + frame), frame, SamplingParams(seed=slot))
            for slot in range(1, batch + 1)
        ]
        began_s = time.perf_counter()
        times = speaker.begin(rows).frames().times
        if step >= 3:  # before, graphs are captured
            walls.append((time.perf_counter() - began_s) * 1000)
            all_times.append(times)
    return {
        "talker_ms": median(times.talker_s for times in all_times) * 1000,
        "draws_and_predictor_ms": median(times.predictor_s for times in all_times) * 1000,
        "codec_ms": median(times.codec_s for times in all_times) * 1000,
        "step_ms": median(walls),
    }


async def measure_first_frame(engine: SpeechEngine) -> float:
    """Milliseconds from the answer's first token to its first frame, the prompt taken in before."""
    waits: list[float] = []
    config = engine.config
    for seed in range(6):
        nothing = torch.zeros(0, config.codebooks, dtype=torch.int64)
        request = SpeechRequest(prompt_of_length(config, PROMPT_TOKENS), SamplingParams(seed=seed), 4, nothing)
        stream = engine.submit(request)
        await wait_until(lambda stream=stream: stream.state.is_prefilled, within_s=60)
        began_s = time.perf_counter()
        stream.feed([config.assistant_id] * 4, is_last=True)
        async for _ in stream:
            waits.append((time.perf_counter() - began_s) * 1000)
            stream.cancel()
    return median(waits[1:])


async def measure_voices(engine: SpeechEngine, voices: int, seconds: float = 3.0) -> dict[str, float]:
    """What the engine gives so many clients, each of which takes its frames as they come: past their prompts, for so
    long. They never end by themselves."""
    config = engine.config
    nothing = torch.zeros(0, config.codebooks, dtype=torch.int64)
    prompt = prompt_of_length(config, PROMPT_TOKENS)
    counts = [0] * voices

    async def listen(index: int) -> None:
        stream = engine.submit(SpeechRequest(prompt, SamplingParams(seed=index), 2048, nothing))
        stream.feed([config.assistant_id] * 4, is_last=True)
        try:
            async for _ in stream:
                counts[index] += 1
        finally:
            stream.cancel()

    listening = [asyncio.create_task(listen(index), name=f"listen {index}") for index in range(voices)]
    await wait_until(lambda: min(counts) > 2, within_s=120)
    before, began_s = list(counts), time.perf_counter()
    await asyncio.sleep(seconds)
    passed_s = time.perf_counter() - began_s
    gained = [count - then for count, then in zip(counts, before, strict=True)]
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    await wait_until(lambda: engine.live_streams == 0, within_s=60)
    return {
        "frames_per_s": sum(gained) / passed_s,
        "ms_a_frame": 1000 * passed_s * voices / max(sum(gained), 1),
        "slowest_voice_real_time_factor": FRAMES_PER_S * passed_s / max(min(gained), 1),
    }


async def measure_agreement(engine: SpeechEngine, streams: int, frames: int = 60) -> dict[str, dict[str, int]]:
    """How far the codes of so many streams are the same alone, alone again, and all at once."""
    config = engine.config
    nothing = torch.zeros(0, config.codebooks, dtype=torch.int64)
    prompt = prompt_of_length(config, PROMPT_TOKENS)
    asked = [
        (SpeechRequest(prompt, SamplingParams(seed=seed), frames, nothing), [config.assistant_id] * frames)
        for seed in range(streams)
    ]
    alone, again = [await speak_all(engine, asked, together=False) for _ in range(2)]
    batch = await speak_all(engine, asked, together=True)
    return {"alone_and_alone_again": compare(alone, again), "alone_and_in_a_batch": compare(alone, batch)}


def measure_invariant(models: SpeechModels) -> dict[str, Any]:
    """The same with an engine whose steps have one shape, and what such a step takes."""
    plan = plan_memory(models, budget_bytes(models), slots=16, max_frames=2048, batch_invariant=True)
    engine = SpeechEngine(models, memory=plan, batch_invariant=True)
    engine.warm_up()
    step = measure_steps(engine.speaker, 1)["1"]["step_ms"]
    engine.start()
    agreement = asyncio.run(measure_agreement(engine, 8, frames=40))
    engine.close()
    return {"slots": plan.slots, "step_ms": step} | agreement


@torch.inference_mode()
def measure_transformers(models: SpeechModels, frames: int = 20) -> dict[str, float]:
    """generate() of the talker with its predictor, and code2wav's decode of what it made, a frame."""
    talker, device = models.talker, models.device
    hidden = int(talker.config.text_config.hidden_size)
    prompt = torch.randn(1, PROMPT_TOKENS, hidden, device=device, dtype=models.dtype)
    trailing = torch.randn(1, frames + 2, hidden, device=device, dtype=models.dtype)

    def generate() -> None:
        talker.generate(
            inputs_embeds=prompt,
            trailing_text_hidden=trailing,
            tts_pad_embed=trailing[:, :1],
            talker_input_ids=torch.full((1, PROMPT_TOKENS), models.config.assistant_id, device=device),
            max_new_tokens=frames + 1,
            do_sample=True,
            top_k=50,
            temperature=0.9,
            suppress_tokens=list(range(2048, 3072)),
            eos_token_id=2150,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )

    def decode() -> None:
        models.code2wav(torch.randint(0, 2048, (1, 16, frames), device=device))

    figures: dict[str, float] = {}
    for name, work in (("talker_and_predictor_ms", generate), ("code2wav_ms", decode)):
        times: list[float] = []
        for _ in range(4):
            began_s = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - began_s) * 1000 / frames)
        figures[name] = median(times[1:])
    return figures


def gpu(device: torch.device) -> dict[str, str]:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "gpu": torch.cuda.get_device_name(device),
        "driver": subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0],
        "cuda": str(torch.version.cuda),
        "triton": version("triton"),
    }


def main() -> None:
    parser = arguments_parser("The talker engine at the released size, with random weights.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--size", default="released", choices=tuple(SIZES))
    parser.add_argument("--voices", type=int, default=512, help="the most voices; fewer where memory ends")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    models = random_models(SIZES[arguments.size], device, cast(torch.dtype, getattr(torch, arguments.dtype)))
    plan = plan_memory(models, budget_bytes(models), slots=arguments.voices, max_frames=2048)
    figures: dict[str, Any] = {
        "command": f"python -m bench.talker_gpu --size {arguments.size} --dtype {arguments.dtype}",
        "machine": machine() | (gpu(device) if device.type == "cuda" else {}),
        "weights_mb": models.bytes / 1e6,
        "streams_mb": plan.bytes / 1e6,
        "slots": plan.slots,
    }
    endless = replace(models, config=replace(models.config, codec_eos_id=-1))
    engine = SpeechEngine(endless, memory=plan)
    began_s = time.perf_counter()
    engine.warm_up()
    figures["warm_up_s"] = time.perf_counter() - began_s
    figures["ms_a_frame"] = measure_steps(engine.speaker, plan.slots)
    engine.start()
    figures["first_frame_ms"] = asyncio.run(measure_first_frame(engine))
    figures["engine"] = {
        str(voices): asyncio.run(measure_voices(engine, voices)) for voices in BATCHES if voices <= plan.slots
    }
    figures["agreement"] = asyncio.run(measure_agreement(engine, min(16, plan.slots)))
    engine.close()
    figures["agreement_batch_invariant"] = measure_invariant(endless)
    figures["transformers_ms_a_frame"] = measure_transformers(models)
    if device.type == "cuda":
        figures["peak_gpu_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
