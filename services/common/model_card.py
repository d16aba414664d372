"""The model card: what a checkpoint can do, read from its config.json. No weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antiphon.v1 import common_pb2
from services.common.errors import BadInput

ARCHITECTURES = ("Qwen3OmniMoeForConditionalGeneration", "Qwen3OmniMoeThinkerForConditionalGeneration")
KINDS = {
    "instruct": common_pb2.MODEL_KIND_INSTRUCT,
    "thinking": common_pb2.MODEL_KIND_THINKING,
    "captioner": common_pb2.MODEL_KIND_CAPTIONER,
}
DEFAULT_VOICE = "ethan"
SAMPLE_RATE = 24_000  # of every released code2wav; the config does not say


def read_config(model_dir: Path) -> dict[str, Any]:
    """Return config.json of a Qwen3-Omni checkpoint. Raise BadInput that names what is wrong with the folder."""
    path = model_dir / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{path} is missing. Give the folder of a Qwen3-Omni checkpoint", param="model") from None
    except json.JSONDecodeError:
        raise BadInput(f"{path} is not valid JSON", param="model") from None
    architectures = config.get("architectures") or []
    if not set(architectures) & set(ARCHITECTURES):
        raise BadInput(
            f"{path} names the architectures {architectures}, but only Qwen3-Omni is served: {ARCHITECTURES[0]}",
            param="model",
        )
    return config


def kind_of(config: Mapping[str, Any], name: str) -> str:
    """Return one of KINDS: instruct where there is a talker. The other two have equal configs, so the name decides."""
    if config.get("enable_audio_output", True) and config.get("talker_config"):
        return "instruct"
    return "captioner" if "captioner" in name.lower() else "thinking"


def voices_of(config: Mapping[str, Any]) -> list[str]:
    """Return the speakers' names in lower case, in the config's order."""
    return [str(name).lower() for name in (config.get("talker_config") or {}).get("speaker_id") or {}]


def read_model_card(model_dir: Path, name: str, kind: str = "auto", max_model_len: int = 32768) -> common_pb2.ModelCard:
    """Return the card of the checkpoint in `model_dir`, served as `name`; `kind` is "auto" or one of KINDS.

    The thinker's number of positions bounds `max_model_len`. Raise BadInput as `read_config` does, and where `kind` is
    instruct but the checkpoint has no talker.
    """
    config = read_config(model_dir)
    if kind == "auto":
        kind = kind_of(config, name)
    speaks = kind == "instruct"
    voices = voices_of(config) if speaks else []
    if speaks and not voices:
        raise BadInput(
            "the checkpoint has no voices (talker_config.speaker_id), which an instruct model needs", param="model_kind"
        )
    positions = config["thinker_config"]["text_config"].get("max_position_embeddings", max_model_len)
    return common_pb2.ModelCard(
        name=name,
        kind=KINDS[kind],
        max_model_len=min(max_model_len, positions),
        voices=voices,
        default_voice=(DEFAULT_VOICE if DEFAULT_VOICE in voices else voices[0]) if voices else "",
        sample_rate=SAMPLE_RATE if speaks else 0,
        created_unix_s=int((model_dir / "config.json").stat().st_mtime),
    )


def locate_checkpoint(model: str) -> Path:
    """Return the folder of `model`: the folder itself, or the hub's snapshot, which is downloaded if needed.

    Raise BadInput where it is neither.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise BadInput(f"{model} is neither a folder nor a name on the hub", param="model")
    from huggingface_hub import snapshot_download  # only where a hub name is given
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model))
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError):
        raise BadInput(f"{model} could not be downloaded from the hub and is not in its cache", param="model") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadInput(f"{model} could not be written to the hub's cache: {reason}", param="model") from None
