"""The talker engine at the released size, on a GPU, with random weights: nothing is downloaded.

    python -m bench.talker_gpu [--json bench/results/talker_gpu.json]

Reports, for 1 to 512 streams:

- milliseconds a frame of the talker, of sampling with the predictor, and of the codec;
- the first frame's latency;
- the whole engine's frame rate, and so how many streams one GPU serves in real time (12.5 frames a second each);
- how many codes agree between a stream alone and the same stream in a batch;
- compile time at the start, and memory;
- transformers' generate and code2wav's decode, on the same weights in the same run.

`--device cpu --size small` only shows that it runs.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import replace
from importlib.metadata import version
from statistics import median
from typing import Any, cast

import torch

from bench.machine import machine
from bench.report import arguments_parser, report
from bench.talker_exactness import compare, speak_all
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from services.talker.kv_cache import blocks_for
from services.talker.memory import budget_bytes, plan_memory
from services.talker.sampling import SamplingParams
from services.talker.speaker import Speaker
from services.talker.step import StepInput, StepTimes
from services.talker.stream import SpeechRequest
from tests.fixtures.wait import wait_until
from tests.talker.released import SIZES, random_models
from tests.talker.speech import prompt_of_length

BATCHES = (1, 4, 16, 64, 256, 512)
FRAMES_PER_S = 12.5
PROMPT_TOKENS = 200
FRAMES_BEFORE = 100  # the streams are in the middle of an answer
STEPS = 20


def measure_steps(speaker: Speaker, most: int) -> dict[str, Any]:
    """Return medians over steps in the middle of answers. Each step is read before the next one is launched."""
    with speaker.cuda_stream.activate():
        blocks = blocks_for(PROMPT_TOKENS + FRAMES_BEFORE + STEPS + 3)
        for slot in range(1, most + 1):
            speaker.open(slot, range(1 + (slot - 1) * blocks, 1 + slot * blocks), SamplingParams(seed=slot))
        return {str(batch): _measure_steps_of(speaker, batch) for batch in BATCHES if batch <= most}


def _measure_steps_of(speaker: Speaker, batch: int) -> dict[str, float]:
    walls: list[float] = []
    all_times: list[StepTimes] = []
    for step in range(STEPS + 3):
        frame = FRAMES_BEFORE + step
        inputs = [
            StepInput(slot, 872, PROMPT_TOKENS + frame, float(PROMPT_TOKENS + frame), frame, SamplingParams(seed=slot))
            for slot in range(1, batch + 1)
        ]
        began_s = time.perf_counter()
        times = speaker.begin(inputs).frames().times
        if step >= 3:  # the first steps capture graphs
            walls.append((time.perf_counter() - began_s) * 1000)
            all_times.append(times)
    return {
        "talker_ms": median(times.talker_s for times in all_times) * 1000,
        "draws_and_predictor_ms": median(times.predictor_s for times in all_times) * 1000,
        "codec_ms": median(times.codec_s for times in all_times) * 1000,
        "step_ms": median(walls),
    }


async def measure_first_frame(engine: SpeechEngine) -> float:
    """Return the milliseconds from the answer's first token to its first frame, after the prefill."""
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


async def measure_streams(
    engine: SpeechEngine, streams: int, seconds: float = 3.0, prompt_tokens: int = PROMPT_TOKENS
) -> dict[str, float]:
    """Return the engine's frame rate with this many streams, after their prefill. No stream ends by itself."""
    config = engine.config
    nothing = torch.zeros(0, config.codebooks, dtype=torch.int64)
    prompt = prompt_of_length(config, prompt_tokens)
    counts = [0] * streams

    async def listen(index: int) -> None:
        stream = engine.submit(SpeechRequest(prompt, SamplingParams(seed=index), 2048, nothing))
        stream.feed([config.assistant_id] * 4, is_last=True)
        try:
            async for _ in stream:
                counts[index] += 1
        finally:
            stream.cancel()

    listening = [asyncio.create_task(listen(index), name=f"listen {index}") for index in range(streams)]
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
        "ms_a_frame": 1000 * passed_s * streams / max(sum(gained), 1),
        "slowest_stream_real_time_factor": FRAMES_PER_S * passed_s / max(min(gained), 1),
    }


async def measure_agreement(engine: SpeechEngine, streams: int, frames: int = 60) -> dict[str, dict[str, int]]:
    """Compare the codes of streams that run alone, alone again, and all at once."""
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
    """Measure the agreement of a batch-invariant engine, and the time of its step."""
    plan = plan_memory(models, budget_bytes(models), slots=16, max_frames=2048)
    engine = SpeechEngine(models, memory=plan, batch_invariant=True)
    engine.warm_up()
    step = measure_steps(engine.speaker, 1)["1"]["step_ms"]
    engine.start()
    agreement = asyncio.run(measure_agreement(engine, 8, frames=40))
    engine.close()
    return {"slots": plan.slots, "step_ms": step} | agreement


@torch.inference_mode()
def measure_transformers(models: SpeechModels, frames: int = 20) -> dict[str, float]:
    """Return the milliseconds a frame of transformers: the talker's generate with its predictor, and code2wav."""
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
    parser.add_argument("--streams", type=int, default=512, help="the most streams; fewer if memory runs out")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    models = random_models(SIZES[arguments.size], device, cast(torch.dtype, getattr(torch, arguments.dtype)))
    plan = plan_memory(models, budget_bytes(models), slots=arguments.streams, max_frames=2048)
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
        str(count): asyncio.run(measure_streams(engine, count)) for count in BATCHES if count <= plan.slots
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
