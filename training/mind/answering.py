"""A finished checkpoint that is asked, and what became of its answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Qwen3OmniMoeForConditionalGeneration

from training.mind.dialogues import Dialogue
from training.mind.fresh import FreshSource

MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Outcome:
    kind: str
    asked: str
    wanted: str
    answered: str

    @property
    def is_exact(self) -> bool:
        return self.answered == self.wanted

    @property
    def is_understood(self) -> bool:
        """Whether everything up to the result of a sum is right."""
        return self.answered.split(" is ")[0] == self.wanted.split(" is ")[0]


class Model:
    """A checkpoint's thinker, asked one dialogue at a time."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        loaded: Any = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.thinker: Any = loaded.thinker.eval()
        self._ends = loaded.generation_config.eos_token_id

    def answer(self, dialogue: Dialogue, source: FreshSource) -> str:
        """Return the answer's text, without a chain of thought."""
        with torch.inference_mode():
            inputs, has_film_sound = source.inputs(dialogue, self.processor)
            out = self.thinker.generate(
                **inputs,
                use_audio_in_video=has_film_sound,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                eos_token_id=self._ends,
                pad_token_id=self.processor.tokenizer.pad_token_id,
            )
        new = out[0, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(new, skip_special_tokens=True).split("</think>")[-1].strip()
