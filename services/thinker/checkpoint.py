"""What the thinker needs to know of a checkpoint, read from its config and tokenizer; no weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from antiphon.v1 import common_pb2
from services.common.kv_cache import kv_values_per_token
from services.common.model_card import read_config
from services.thinker.hidden_states.positions import TurnTokens


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    card: common_pb2.ModelCard

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_config(self.folder)

    @property
    def thinker(self) -> dict[str, Any]:
        return self.config["thinker_config"]

    @property
    def text(self) -> dict[str, Any]:
        return self.thinker["text_config"]

    @property
    def vocab_size(self) -> int:
        return self.text["vocab_size"]

    @property
    def hidden_size(self) -> int:
        return self.text["hidden_size"]

    @property
    def merge_size(self) -> int:
        """Patches of a vision grid merge by this factor along height and width, into one token."""
        return self.thinker["vision_config"]["spatial_merge_size"]

    @property
    def mel_bins(self) -> int:
        return self.thinker["audio_config"]["num_mel_bins"]

    @property
    def audio_chunk_frames(self) -> int:
        """Mel frames of a full chunk of the audio encoder."""
        return 2 * self.thinker["audio_config"]["n_window"]

    @property
    def audio_window_frames(self) -> int:
        """Mel frames of a full window of the audio encoder, whole chunks: its attention never looks past them."""
        chunks = self.thinker["audio_config"]["n_window_infer"] // self.audio_chunk_frames
        return chunks * self.audio_chunk_frames

    @property
    def channels(self) -> int:
        return self.thinker["vision_config"].get("in_channels", 3)

    @property
    def patch_frames(self) -> int:
        """Frames of one vision patch."""
        return self.thinker["vision_config"]["temporal_patch_size"]

    @property
    def patch_values(self) -> int:
        """Values of one vision patch, as the processor flattens it: channels × frames × height × width."""
        return self.channels * self.patch_frames * self.thinker["vision_config"]["patch_size"] ** 2

    @property
    def placeholders(self) -> dict[str, int]:
        """The placeholder token of each modality."""
        return {
            "image": self.thinker["image_token_id"],
            "video": self.thinker["video_token_id"],
            "audio": self.thinker["audio_token_id"],
        }

    @cached_property
    def turn_tokens(self) -> TurnTokens:
        return TurnTokens(
            im_start=self.config["im_start_token_id"],
            user=self.thinker["user_token_id"],
            media=frozenset(self.placeholders.values()),
        )

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        path = self.folder / "generation_config.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the end of a turn, and what generation_config.json names."""
        named = self.generation_config.get("eos_token_id", [])
        ends = {named} if isinstance(named, int) else set(named or ())
        return frozenset(ends | {self.config["im_end_token_id"]})

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of keys, values and hidden states for that many tokens, in float32."""
        return 4 * tokens * (kv_values_per_token(self.text) + self.text["hidden_size"])
