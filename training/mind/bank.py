"""Stage "bank": what the trained towers give for many media, kept on the disk: the thinker trains quickly on it.

Run as `python -m training.mind.bank` when the towers are trained. Media are distorted as in the towers' training.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.cache import cache_folder
from training.files import write_atomically
from training.mind.arrays import Pixels, Samples
from training.mind.audio_tower import audio_outputs, varied
from training.mind.clips import read_clips
from training.mind.dialogues import Media
from training.mind.films import lay_out, render_film
from training.mind.mel import distort, log_mel
from training.mind.model import new_thinker
from training.mind.patches import pack
from training.mind.pictures import draw
from training.mind.sequence import Features
from training.mind.sounds import make_recording
from training.mind.stage import load_into
from training.options import parse_options, stage_parser
from training.world import facts
from training.world.facts import Scene

SHARD = 250
HARD_SHARE = 0.5
"""Of speech that is distorted as much as in the tower's training: the thinker learns to read what it writes then."""

Entry = tuple[Media, Features]


def load_towers(work: Path) -> Any:
    """Return a thinker that has the trained towers."""
    thinker = new_thinker(1)
    load_into(work / "vision.pt", {"visual": thinker.visual})
    load_into(work / "audio.pt", {"tower": thinker.audio_tower})
    return thinker.eval()


def encode_frames(thinker: Any, frames: Pixels) -> Features:
    """Run the vision tower on a picture or a film."""
    patches, grid = pack(frames)
    out = thinker.visual(patches, grid_thw=torch.tensor([grid]))
    return Features(out.pooler_output, torch.stack(list(out.deepstack_features)), grid=grid)


def encode_sound(thinker: Any, sound: Samples) -> Features:
    """Run the audio tower on a sound."""
    return encode_mel(thinker, log_mel(sound))


def encode_mel(thinker: Any, mel: Tensor) -> Features:
    """Run the audio tower on features [128, frames]."""
    return Features(audio_outputs(thinker.audio_tower, [mel])[0], frames=mel.shape[1])


def side(rng: np.random.Generator) -> int:
    """Of a picture: mostly small, for speed."""
    return 32 * int(rng.integers(2, 9)) if rng.random() < 0.9 else 32 * int(rng.integers(9, 14))


def encode_picture(thinker: Any, scene: Scene, rng: np.random.Generator) -> Features:
    """Draw a scene, and look at it."""
    height = side(rng)
    width = int(np.clip(32 * round(height / 32 * rng.uniform(0.6, 1.7)), 64, 448))
    return encode_frames(thinker, draw(lay_out(scene, height, width, rng))[None])


def encode_recording(thinker: Any, scene: Scene, rng: np.random.Generator) -> Features:
    """Make a scene's sounds, and listen to them from somewhere."""
    return encode_sound(thinker, distort(make_recording(scene.sounds, rng), rng))


def encode_film(thinker: Any, scene: Scene, rng: np.random.Generator, frames: int | None = None) -> Features:
    """Draw a scene that moves, look at it, and listen if it has sounds."""
    seen = encode_frames(thinker, render_film(scene, rng, frames))
    heard = encode_recording(thinker, scene, rng) if scene.sounds else None
    return Features(seen.embeds, seen.deep, grid=seen.grid, sound=heard)


def make_picture(thinker: Any, key: str) -> Entry:
    rng = random.Random(key)
    scene = facts.draw_picture(rng) if rng.random() < 0.96 else Scene()
    return Media("picture", key, scene), encode_picture(thinker, scene, _generator(key))


def make_sound(thinker: Any, key: str) -> Entry:
    scene = facts.draw_recording(random.Random(key))
    return Media("sound", key, scene), encode_recording(thinker, scene, _generator(key))


def make_film(thinker: Any, key: str) -> Entry:
    rng = _generator(key)
    scene = facts.draw_film(random.Random(key), has_sound=bool(rng.random() < 0.5))
    return Media("film", key, scene), encode_film(thinker, scene, rng)


def _generator(key: str) -> np.random.Generator:
    return np.random.default_rng(list(key.encode()))


def speech_entries(thinker: Any, work: Path, variants: int, clips: int | None) -> Iterator[Entry]:
    for number, clip in enumerate(islice(read_clips(work / "speech"), clips)):
        for variant in range(variants):
            rng = np.random.default_rng([8, number, variant])
            mel = log_mel(distort(clip.samples, rng))
            heard = encode_mel(thinker, varied(mel, rng) if rng.random() < HARD_SHARE else mel)
            yield Media("speech", f"{number}.{variant} {clip.text}"), heard


def write_bank(work: Path, thinker: Any, counts: dict[str, int], variants: int, clips: int | None = None) -> None:
    """Write bank/KIND-NNN.pt; files that are there stay. clips: of speech; None for all."""
    folder = work / "bank"
    folder.mkdir(exist_ok=True)
    makers: dict[str, Callable[[Any, str], Entry]] = {"picture": make_picture, "sound": make_sound, "film": make_film}
    with torch.inference_mode():
        for kind, make in makers.items():
            for start in range(0, counts[kind], SHARD):
                path = folder / f"{kind}-{start // SHARD:03d}.pt"
                if not path.exists():
                    stop = min(start + SHARD, counts[kind])
                    _save(path, [make(thinker, f"{kind} {index}") for index in range(start, stop)])
        path = folder / "speech-000.pt"
        if not path.exists():
            _save(path, list(speech_entries(thinker, work, variants, clips)))


def _save(path: Path, entries: list[Entry]) -> None:
    stored = [(medium, _cast(features, torch.float16)) for medium, features in entries]
    write_atomically(path, lambda scratch: torch.save(stored, scratch))
    print(f"{path.name}: {len(entries)}", flush=True)


def _cast(features: Features, dtype: torch.dtype) -> Features:
    def cast(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(dtype)

    sound = _cast(features.sound, dtype) if features.sound else None
    embeds = features.embeds.to(dtype)
    return Features(embeds, cast(features.deep), features.frames, features.grid, sound)


class BankSource:
    """Dialogues' media out of the bank."""

    def __init__(self, work: Path) -> None:
        self._features: dict[Media, Features] = {}
        self._by_kind: dict[str, list[Media]] = defaultdict(list)
        self._by_text: dict[str, list[Media]] = defaultdict(list)
        for path in sorted((work / "bank").glob("*.pt")):
            for medium, features in torch.load(path, weights_only=False):
                self._features[medium] = features
                if medium.kind == "speech":
                    self._by_text[medium.key.split(" ", 1)[1]].append(medium)
                elif medium.kind == "film":
                    self._by_kind["film with sound" if medium.scene.sounds else "film"].append(medium)
                else:
                    self._by_kind[medium.kind].append(medium)

    def speech(self, text: str, rng: random.Random) -> Media | None:
        return rng.choice(self._by_text[text]) if text in self._by_text else None

    def picture(self, rng: random.Random) -> Media:
        return rng.choice(self._by_kind["picture"])

    def recording(self, rng: random.Random) -> Media:
        return rng.choice(self._by_kind["sound"])

    def film(self, rng: random.Random, *, has_sound: bool) -> Media:
        return rng.choice(self._by_kind["film with sound" if has_sound else "film"])

    def features(self, medium: Media, rng: np.random.Generator) -> Features:
        """With a little noise, so that nothing is learned by heart."""
        found = _cast(self._features[medium], torch.float32)
        noise = torch.from_numpy(rng.standard_normal(found.embeds.shape).astype(np.float32))
        share = 0.05 * float(found.embeds.std())
        return Features(found.embeds + noise * share, found.deep, found.frames, found.grid, found.sound)


def main() -> None:
    options = stage_parser(__doc__)
    options.add_argument("--pictures", type=int, default=4000)
    options.add_argument("--sounds", type=int, default=1500)
    options.add_argument("--films", type=int, default=750)
    options.add_argument("--variants", type=int, default=2, help="of each clip of speech")
    options.add_argument("--clips", type=int, help="of speech (default: all)")
    given = parse_options(options)
    counts = {"picture": given.pictures, "sound": given.sounds, "film": given.films}
    work = cache_folder("mind")
    write_bank(work, load_towers(work), counts, given.variants, given.clips)


if __name__ == "__main__":
    main()
