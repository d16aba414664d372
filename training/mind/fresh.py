"""Media made for the occasion, as pixels and samples: what a person would send. For evaluation and joint training."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from training.mind.arrays import Pixels, Samples
from training.mind.bank import side
from training.mind.clips import Clip
from training.mind.dialogues import Dialogue, Media
from training.mind.films import lay_out, render_film
from training.mind.mel import HOP, quiet_around
from training.mind.pictures import CELL, draw
from training.mind.sequence import messages_of
from training.mind.sounds import make_recording
from training.world import facts

FPS = 2.0


class FreshSource:
    """Draws each medium anew and keeps it. `speak` gives speech, or raises KeyError where it can't say the words."""

    def __init__(self, speak: Callable[[str, random.Random], Clip]) -> None:
        self._speak = speak
        self._pixels: dict[str, Pixels] = {}
        self._samples: dict[str, Samples] = {}

    def speech(self, text: str, rng: random.Random) -> Media | None:
        try:
            clip = self._speak(text, rng)
        except KeyError:
            return None
        key = f"{len(self._samples)} {text}"
        self._samples[key] = _in_whole_frames(quiet_around(clip.samples))
        return Media("speech", key)

    def picture(self, rng: random.Random) -> Media:
        scene, draws = facts.draw_picture(rng), np.random.default_rng(rng.randrange(1 << 31))
        height = side(draws)
        width = int(np.clip(height * draws.uniform(0.7, 1.6), 64, 448))
        key = f"picture {len(self._pixels)}"
        self._pixels[key] = draw(lay_out(scene, height, width, draws))[None]
        return Media("picture", key, scene)

    def recording(self, rng: random.Random) -> Media:
        scene = facts.draw_recording(rng)
        return Media("sound", self._play(scene, rng), scene)

    def film(self, rng: random.Random, *, has_sound: bool) -> Media:
        scene = facts.draw_film(rng, has_sound=has_sound)
        key = self._play(scene, rng) if has_sound else f"film {len(self._pixels)}"
        self._pixels[key] = render_film(scene, np.random.default_rng(rng.randrange(1 << 31)))
        return Media("film", key, scene)

    def has_sound(self, medium: Media) -> bool:
        return medium.key in self._samples

    def samples(self, medium: Media) -> Samples:
        """float32 [samples] at 16 kHz."""
        return self._samples[medium.key]

    def resized(self, medium: Media) -> Pixels:
        """uint8 [frames, height, width, 3], sides divisible by 32 as the model sees them."""
        pixels = self._pixels[medium.key]
        height, width = (max(64, round(length / CELL) * CELL) for length in pixels.shape[1:3])
        sized = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in pixels]
        return np.stack([np.asarray(frame) for frame in sized])

    def inputs(self, dialogue: Dialogue, processor: Any) -> tuple[dict[str, Any], bool]:
        """Return the processor's tensors for a dialogue without its last answer, and whether films have sound."""
        media = dialogue.media
        sounds = [self._samples[one.key] for one in media if one.key in self._samples]
        pictures = [Image.fromarray(self._pixels[one.key][0]) for one in media if one.kind == "picture"]
        films = [torch.from_numpy(self._pixels[one.key]).permute(0, 3, 1, 2) for one in media if one.kind == "film"]
        has_film_sound = any(one.kind == "film" and one.scene.sounds for one in media)
        messages = messages_of(dialogue, with_last_answer=False)
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        given: dict[str, Any] = {}
        if sounds:
            given["audio"] = sounds
        if pictures:
            given["images"] = pictures
        if films:
            given |= {"videos": films, "use_audio_in_video": has_film_sound}
            given["videos_kwargs"] = {"fps": FPS, "do_sample_frames": False, "cap_pixels_per_frame": True}
        with warnings.catch_warnings():
            # transformers gives a torch tensor to numpy.arange where sound and picture interleave.
            warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
            return dict(processor(text=[text], return_tensors="pt", **given)), has_film_sound

    def _play(self, scene: facts.Scene, rng: random.Random) -> str:
        key = f"sound {len(self._samples)}"
        made = make_recording(scene.sounds, np.random.default_rng(rng.randrange(1 << 31)))
        self._samples[key] = _in_whole_frames(made)
        return key


def _in_whole_frames(sound: Samples) -> Samples:
    """Cut off what is less than a mel frame: beside a longer sound the processor counts it as a frame of its own."""
    return sound[: len(sound) // HOP * HOP]
