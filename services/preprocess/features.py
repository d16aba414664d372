"""Turns decoded media into the engine's input: tensors from the checkpoint's processor, packed in vLLM's format.

The tensors are those of transformers' `Qwen3OmniMoeProcessor`. vLLM's own processor pads each sound to whole mel frames
first. For a length that is not a multiple of 160 samples, it gives one frame more than transformers, and sometimes one
token more. The format (MultiModalKwargsItem and its fields) is vLLM's, pinned on both sides.

Pixels stay bytes: patches of levels, of one frame where all frames are alike, and the processor's value of each level
in a table. The engine makes the values (services/common/pixels.py).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, BatchFeature
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.v1.serial_utils import MsgpackEncoder

from services.common.pixels import LEVEL_TABLE, level_table
from services.preprocess.media.samples import Samples

# Part of each hash. Raise it when the same media begins to give different tensors, or is named otherwise.
FEATURES_VERSION = 5
# The libraries that decode, resize, resample and transform. A new version may round differently.
_LIBRARIES = ("av", "numpy", "pillow", "pillow-heif", "soundfile", "soxr", "torch", "transformers")
# The engine makes values of levels.
_AS_LEVELS = {"do_rescale": False, "do_normalize": False}
INLINE_TENSORS = 1 << 62  # MsgpackEncoder: everything in one buffer, nothing out of band
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Pixels of the frames that are processed at a time, where a pair of frames does not have more.
_CHUNK_PIXELS = 4 << 20
# Most memory of the processor: of any item; of a pixel of the frames that are processed at a time (measured: 9);
# copies of a video's features (measured: 2); of a pixel before and after an image's resize (measured: 10 for both); of
# a sample of sound (measured: 47).
_FLOOR_BYTES = 16 << 20
_CHUNK_BYTES = 16
_FEATURE_COPIES = 3
_IMAGE_IN_BYTES = 16
_IMAGE_OUT_BYTES = 24
_SAMPLE_BYTES = 48


class FrameSource(Protocol):
    """A video's frames, uint8 [frames, 3, height, width]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return frames `start` to `stop`, or to the last one, in memory of their own."""
        ...


@dataclass(frozen=True, slots=True)
class ItemShape:
    """What the prompt needs of a prepared item: the number of its placeholder tokens; for images and videos, the grid
    in patches (t, h, w); for videos, the seconds between two temporal patches."""

    tokens: int
    grid: tuple[int, int, int] | None = None
    seconds_per_grid: float = 0.0


@dataclass(frozen=True, slots=True)
class PreparedItem:
    shape: ItemShape
    # One MultiModalKwargsItem, msgpack.
    kwargs: bytes


@dataclass(frozen=True, slots=True)
class MediaTokens:
    """The checkpoint's token ids and constants for media."""

    image: int
    audio: int
    video: int
    audio_start: int
    audio_end: int
    merge_size: int
    position_id_per_seconds: float


class FeatureExtractor:
    """The checkpoint's processor. Use it from one thread at a time; a call takes milliseconds to seconds."""

    def __init__(self, model_dir: Path, dtype: str) -> None:
        config = AutoConfig.from_pretrained(model_dir)
        thinker = config.thinker_config
        self.processor: Any = AutoProcessor.from_pretrained(model_dir)
        self.tokens = MediaTokens(
            image=thinker.image_token_id,
            audio=thinker.audio_token_id,
            video=thinker.video_token_id,
            audio_start=thinker.audio_start_token_id,
            audio_end=thinker.audio_end_token_id,
            merge_size=thinker.vision_config.spatial_merge_size,
            position_id_per_seconds=thinker.position_id_per_seconds,
        )
        self.image_factor: int = self.processor.image_processor.patch_size * self.processor.image_processor.merge_size
        self.video_factor: int = self.processor.video_processor.patch_size * self.processor.video_processor.merge_size
        # Bounds of one image after the resize: the checkpoint's own, as in its training.
        self.image_min_pixels: int = self.processor.image_processor.size.shortest_edge
        self.image_max_pixels: int = self.processor.image_processor.size.longest_edge
        self._temporal_patch_size: int = self.processor.video_processor.temporal_patch_size
        # Number of samples past its end that a sound's last mel frame covers.
        self.max_tail: int = self.processor.feature_extractor.n_fft // 2
        self._dtype: torch.dtype = _resolve_dtype(dtype, config)
        self._image_table = _table(self.processor.image_processor)
        self._video_table = _table(self.processor.video_processor)
        self.fingerprint = _fingerprint(self.processor, self.tokens, self._dtype)
        self._encoder = MsgpackEncoder(size_threshold=INLINE_TENSORS)

    def twin(self) -> FeatureExtractor:
        """Return an extractor that makes the same features on another thread at the same time."""
        other = copy.copy(self)
        other.processor = copy.deepcopy(self.processor)
        other._encoder = MsgpackEncoder(size_threshold=INLINE_TENSORS)
        return other

    def item_hash(self, kind: str, content: str, **options: object) -> str:
        """Return the hash of the tensors that this extractor makes from this content with these options.

        It covers everything that shapes the tensors or their positions, because the thinker caches by it.
        """
        described = json.dumps([self.fingerprint, kind, content, sorted(options.items())], default=repr)
        return hashlib.sha256(described.encode()).hexdigest()

    def image(self, pixels: npt.NDArray[np.uint8], min_pixels: int | None, max_pixels: int | None) -> PreparedItem:
        """Prepare an image [height, width, 3] of any size. The processor resizes it within its own or the given bounds.

        The caller checks the bounds: `image_tokens` returns the number of tokens that they lead to.
        """
        options = {"size": self.image_size(min_pixels, max_pixels), "temporal_patch_size": 1, **_AS_LEVELS}
        out = self.processor(
            text=[self.processor.image_token],
            images=[Image.fromarray(pixels)],
            images_kwargs=options,
            return_tensors="pt",
        )
        grid = out["image_grid_thw"]
        fields = {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", grid.prod(-1)),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            LEVEL_TABLE: MultiModalFieldConfig.batched("image"),
        }
        item = {
            "pixel_values": _levels(out.pop("pixel_values")),
            "image_grid_thw": grid,
            LEVEL_TABLE: self._image_table,
        }
        return PreparedItem(ItemShape(self._count(out, self.tokens.image), _grid(grid)), self._pack(item, fields))

    def image_tokens(self, height: int, width: int, min_pixels: int | None, max_pixels: int | None) -> int:
        """Return the number of tokens that an image of this size will have, without resizing anything."""
        least, most = self.image_size(min_pixels, max_pixels).values()
        return math.prod(smart_resize(height, width, self.image_factor, least, most)) // self.image_factor**2

    def image_size(self, min_pixels: int | None, max_pixels: int | None) -> dict[str, int]:
        """Return the pixel bounds of the resize, as transformers names them."""
        return {
            "shortest_edge": min_pixels if min_pixels is not None else self.image_min_pixels,
            "longest_edge": max_pixels if max_pixels is not None else self.image_max_pixels,
        }

    def audio(self, samples: Samples, tail: int) -> PreparedItem:
        """Prepare a sound [samples] at 16 kHz.

        `tail`: how many samples longer the prompt's longest sound is, at most `max_tail`. transformers pads to the
        longest sound. The last mel frame of a padded sound therefore covers zeros, and that of a sound alone its
        reflection.
        """
        sounds = [samples, np.zeros(samples.size + tail, np.float32)] if tail else [samples]
        out = self.processor(text=[self.processor.audio_token], audio=sounds, return_tensors="pt")
        frames = int(out["feature_attention_mask"][0].sum())
        fields = {
            "input_audio_features": MultiModalFieldConfig.flat_from_sizes("audio", torch.tensor([frames]), dim=1),
            "feature_attention_mask": MultiModalFieldConfig.batched("audio", keep_on_cpu=True),
            "audio_feature_lengths": MultiModalFieldConfig.batched("audio", keep_on_cpu=True),
        }
        item = {
            "input_audio_features": self._cast(out["input_features"][0, :, :frames]),
            "feature_attention_mask": [torch.ones(frames)],
            "audio_feature_lengths": torch.tensor([frames]),
        }
        return PreparedItem(ItemShape(self._count(out, self.tokens.audio)), self._pack(item, fields))

    def video(self, frames: FrameSource, fps: float, *, use_audio: bool) -> PreparedItem:
        """Prepare the sampled and resized frames of a video, [frames, 3, height, width], taken at `fps`.

        They are read and processed a few at a time: each patch comes from neighbouring frames alone.
        """
        count, _, height, width = frames.shape
        step = max(_CHUNK_PIXELS // (height * width) // self._temporal_patch_size, 1) * self._temporal_patch_size
        patches, done, tokens = torch.empty(0), 0, 0
        grid = torch.zeros(1, 3, dtype=torch.long)
        seconds: Any = None
        for start in range(0, count, step):
            out = self._process_frames(frames.read(start, start + step), fps)
            rows = _levels(out["pixel_values_videos"])
            t, h, w = _grid(out["video_grid_thw"])
            if not start:
                total = -(-count // self._temporal_patch_size) * h * w
                patches = rows.new_empty((total, rows.shape[1]))
                seconds = out["video_second_per_grid"]
                grid += torch.tensor([0, h, w])
            patches[done : done + len(rows)] = rows
            grid[0, 0] += t
            done, tokens = done + len(rows), tokens + self._count(out, self.tokens.video)
        fields = {
            "pixel_values_videos": MultiModalFieldConfig.flat_from_sizes("video", grid.prod(-1)),
            "video_grid_thw": MultiModalFieldConfig.batched("video", keep_on_cpu=True),
            "second_per_grid_ts": MultiModalFieldConfig.batched("video", keep_on_cpu=True),
            "use_audio_in_video": MultiModalFieldConfig.shared("video", 1, keep_on_cpu=True),
            LEVEL_TABLE: MultiModalFieldConfig.batched("video"),
        }
        item = {
            "pixel_values_videos": patches,
            "video_grid_thw": grid,
            "second_per_grid_ts": seconds,
            "use_audio_in_video": torch.tensor(use_audio),
            LEVEL_TABLE: self._video_table,
        }
        shape = ItemShape(tokens, _grid(grid), self._temporal_patch_size / fps)
        return PreparedItem(shape, self._pack(item, fields))

    def _process_frames(self, frames: npt.NDArray[np.uint8], fps: float) -> Any:
        return self.processor(
            text=[self.processor.video_token],
            videos=[torch.from_numpy(frames)],
            videos_kwargs={
                "fps": fps,
                "do_sample_frames": False,
                # The frames are resized already, each within its own bounds. transformers' default is about to change.
                "do_resize": False,
                "cap_pixels_per_frame": True,
                **_AS_LEVELS,
            },
            return_tensors="pt",
        )

    def video_bytes(self, frames: int, height: int, width: int) -> int:
        """Return the memory that `video` takes beside the frames' file."""
        feature = frames * height * width * 3
        pair = self._temporal_patch_size * height * width
        chunk = max(min(_CHUNK_PIXELS, frames * height * width), pair)
        return _FLOOR_BYTES + _FEATURE_COPIES * feature + _CHUNK_BYTES * chunk

    def image_bytes(self, height: int, width: int, min_pixels: int | None, max_pixels: int | None) -> int:
        """Return the memory that `image` takes beside its pixels."""
        least, most = self.image_size(min_pixels, max_pixels).values()
        out = math.prod(smart_resize(height, width, self.image_factor, least, most))
        return _FLOOR_BYTES + _IMAGE_IN_BYTES * height * width + _IMAGE_OUT_BYTES * out

    def audio_bytes(self, samples: int, tail: int) -> int:
        """Return the memory that `audio` takes beside the samples."""
        return _FLOOR_BYTES + _SAMPLE_BYTES * (samples + tail) * (2 if tail else 1)

    def _count(self, out: Mapping[str, torch.Tensor], token: int) -> int:
        return int((out["input_ids"] == token).sum())

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._dtype).contiguous()

    def _pack(self, tensors: Mapping[str, Any], fields: Mapping[str, MultiModalFieldConfig]) -> bytes:
        items = MultiModalKwargsItems.from_hf_inputs(BatchFeature(dict(tensors)), fields)
        ((item,),) = items.values()
        (encoded,) = self._encoder.encode(item)
        assert isinstance(encoded, bytes)  # noqa: S101  # zmq frames only where out of band
        return encoded


def _table(processor: Any) -> torch.Tensor:
    """Return [1, channels, 256]: what an image or video processor makes of each level."""

    def normalise(levels: torch.Tensor) -> torch.Tensor:
        one = processor
        return one.rescale_and_normalize(
            levels, one.do_rescale, one.rescale_factor, one.do_normalize, one.image_mean, one.image_std
        )

    return level_table(normalise)[None]


def _levels(patches: torch.Tensor) -> torch.Tensor:
    if patches.dtype != torch.uint8:
        raise TypeError(f"the processor makes {patches.dtype} of pixels, not levels")
    return patches.contiguous()


def _resolve_dtype(name: str, config: Any) -> torch.dtype:
    """Return the dtype for a setting. "auto" is the checkpoint's own, as in vLLM, so no tensor is sent larger than the
    engine needs it."""
    own: Any = config.dtype or config.thinker_config.dtype or torch.float32
    return DTYPES[name] if name in DTYPES else DTYPES.get(str(own).removeprefix("torch."), torch.float32)


def _fingerprint(processor: Any, tokens: MediaTokens, dtype: torch.dtype) -> str:
    """Return a hash of everything that shapes features apart from the media and its options.

    That is the checkpoint's processor, the model's tokens, the dtype, this code, and the libraries that decode and
    compute. Two workers with the same fingerprint make the same feature from the same file.
    """
    parts = (processor.image_processor, processor.video_processor, processor.feature_extractor)
    described = {
        "version": FEATURES_VERSION,
        "dtype": str(dtype),
        "tokens": asdict(tokens),
        "processor": [json.loads(part.to_json_string()) for part in parts],
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _grid(grid: torch.Tensor) -> tuple[int, int, int]:
    t, h, w = grid[0].tolist()
    return t, h, w
