"""What the local stack says when it starts and when it is ready."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from services.cli.client.server import DEFAULT_URL
from services.local.checkpoint import Kind
from services.local.plan import StackOptions

REAL_MODEL = "Qwen/Qwen3-Omni-30B-A3B-Instruct"
_REAL = f"    make up GPU=1 MODEL={REAL_MODEL}    (or the folder that holds them)"
NONSENSE = f"""\
This is a tiny checkpoint of random weights: its words and sounds mean nothing. For the real ones, on GPUs:
{_REAL}"""
SMALL_WORLD = f"""\
This is a tiny checkpoint that knows a small world, in English: numbers, sums, coloured shapes, a dozen sounds,
greetings. Ask it “what is two plus three?”, or show it a picture of coloured shapes and ask “what do you see?”.
For all else, the real weights, on GPUs:
{_REAL}"""
SMALL_WORLD_QUESTION = "what is two plus three?"


def is_random(served_name: str) -> bool:
    """Tell whether it is a checkpoint of random weights that this stack has made."""
    return served_name in {kind.folder_name for kind in Kind}


def is_small_world(served_name: str) -> bool:
    """Tell whether it is a trained checkpoint of the tree."""
    return served_name in {kind.trained_name for kind in Kind}


def hears_only(served_name: str) -> bool:
    """Tell whether it is a Captioner, which takes one audio and no text."""
    return "captioner" in served_name.lower()


def about(served_name: str) -> str:
    """Say what a tiny checkpoint can do, and what leads on; "" of any other."""
    if is_small_world(served_name):
        return SMALL_WORLD
    return NONSENSE if is_random(served_name) else ""


def curl_line(url: str, options: StackOptions) -> str:
    """A command that works as it stands; a Captioner takes no text, so it is asked for the list of models."""
    key = ("-H", f"Authorization: Bearer {options.api_key}") if options.api_key else ()
    if hears_only(options.served_name):
        return shlex.join(("curl", f"{url}/v1/models", *key))
    body = {
        "model": options.served_name,
        "messages": [{"role": "user", "content": _question(options)}],
        "max_tokens": 64,
        "stream": True,
    }
    return shlex.join(
        (
            "curl",
            "-N",
            f"{url}/v1/chat/completions",
            *key,
            "-H",
            "Content-Type: application/json",
            "-d",
            json.dumps(body),
        )
    )


def try_lines(url: str, options: StackOptions) -> list[str]:
    """Return commands that work as they stand in the project's folder."""
    key = f"ANTIPHON_API_KEY={shlex.quote(options.api_key)} " if options.api_key else ""
    where = "" if url == DEFAULT_URL else f" --url {url}"
    command = "models" if hears_only(options.served_name) else f'chat "{_question(options)}"'
    return [f"try:   {key}.venv/bin/antiphon {command}{where}", f"or:    {curl_line(url, options)}"]


def _question(options: StackOptions) -> str:
    return SMALL_WORLD_QUESTION if is_small_world(options.served_name) else "Who are you?"


def departure(log_dir: Path, options: StackOptions) -> str:
    """Said before the first process starts: a load takes half a minute, and with real weights several."""
    workers = f", {options.replicas} workers a stage" if options.replicas > 1 else ""
    services = 3 + options.speaks + (options.data_dir is not None)
    first = f"starting {options.served_name} in {services} services{workers}; logs in {log_dir} …"
    return "\n".join([first, *(options.gpus.lines() if options.gpus else [])])


def greeting(
    url: str, grpc_address: str, metrics_url: str, log_dir: Path, options: StackOptions, start_s: float
) -> str:
    fixed = "grpc_port" in options.settings.get("gateway", {})
    port = "" if fixed else "    (a free port; SET=gateway.grpc_port=9000 makes it that one)"
    fixed_metrics = "metrics_port" in options.settings.get("gateway", {})
    metrics_port = "" if fixed_metrics else "    (a free port; SET=gateway.metrics_port=9090 makes it that one)"
    lines = [
        f"ready: {options.served_name} at {url} (after {start_s:.0f} s; logs in {log_dir}; Ctrl-C ends it)",
        *([f"page:  {url}/"] if "page" not in options.settings.get("gateway", {}) else []),
        *try_lines(url, options),
        f"gRPC:  {grpc_address}{port}",
        f"metrics of the gateway: {metrics_url}{metrics_port}",
    ]
    if not options.api_key:
        lines.append("No API key is set: whoever reaches this port is served (API_KEY=<key> make up … asks for one).")
    if told := about(options.served_name):
        lines.append(told)
    return "\n".join(lines)
