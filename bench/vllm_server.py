"""vLLM's own OpenAI server, with the sizes that a thinker on a CPU gives its engine."""

from __future__ import annotations

from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

MODULE = "vllm.entrypoints.openai.api_server"
KV_CACHE_BYTES = 128 << 20


def arguments(model: Path, port: int, **others: str) -> list[str]:
    """Return the arguments after the module. `others`: vLLM's options by name, such as max_num_seqs="32"."""
    sizes = {
        "model": str(model),
        "port": str(port),
        "dtype": "float32",
        "max_model_len": "32768",
        "max_num_batched_tokens": "32768",
        "kv_cache_memory_bytes": str(KV_CACHE_BYTES),
        "block_size": "32",
        **others,
    }
    named = [word for name, value in sizes.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["--enforce-eager", *named]


def answers(port: int) -> bool:
    """Return whether the server is ready."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
