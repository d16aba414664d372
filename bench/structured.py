"""Asks a running stack for answers to random JSON Schemas and validates each: `python -m bench.structured`.

Start a stack first: `make up MODEL=random`. Its key is read from API_KEY. Four at a time; a few of them take minutes on
two cores. With `--json bench/results/structured.json` it writes what it found.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any, Final

import jsonschema
import openai

from bench.machine import machine
from bench.random_schemas import random_schema
from bench.report import arguments_parser, report

_AT_ONCE: Final = 4
_TIMEOUT_S: Final = 3600.0


async def main() -> None:
    parser = arguments_parser("Ask for answers to random JSON Schemas and validate each.")
    parser.add_argument("--url", default="http://127.0.0.1:8901/v1")
    parser.add_argument("--schemas", type=int, default=200)
    options = parser.parse_args()
    began_s, room = time.monotonic(), asyncio.Semaphore(_AT_ONCE)
    # Longer than openai's ten minutes: a busy machine must not decide what is valid.
    async with openai.AsyncOpenAI(
        base_url=options.url, api_key=os.environ.get("API_KEY", "none"), timeout=_TIMEOUT_S
    ) as client:
        model = (await client.models.list()).data[0].id
        faults = await asyncio.gather(*(_ask(client, model, seed, room) for seed in range(options.schemas)))
    figures = {
        "machine": machine(),
        "model": model,
        "schemas": options.schemas,
        "valid": faults.count(""),
        "faults": {str(seed): fault for seed, fault in enumerate(faults) if fault},
        "took_s": round(time.monotonic() - began_s),
    }
    report(figures, options.json)
    raise SystemExit(any(faults))


async def _ask(client: openai.AsyncOpenAI, model: str, seed: int, room: asyncio.Semaphore) -> str:
    """Return what is wrong with the answer; "" = nothing."""
    schema = random_schema(seed)
    form: Any = {"type": "json_schema", "json_schema": {"name": f"s{seed}", "schema": schema}}
    async with room:
        try:
            answer = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"Fill in form {seed}."}],
                response_format=form,
                temperature=1.0,
                seed=seed,
                max_tokens=1500,
            )
        except openai.APIError as error:
            return f"{type(error).__name__}: {error.message}"
    try:
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{type(error).__name__}, finish_reason {answer.choices[0].finish_reason}"
    return ""


if __name__ == "__main__":
    asyncio.run(main())
