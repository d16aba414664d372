"""Media features: checked before they reach the engine, where a wrong shape would end it for everybody."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.multimodal.inputs import (
    BaseMultiModalField,
    MultiModalBatchedField,
    MultiModalFieldElem,
    MultiModalFlatField,
    MultiModalKwargsItem,
    MultiModalSharedField,
)
from vllm.v1.serial_utils import MsgpackDecoder

from services.common.errors import BadInput
from services.common.pixels import LEVEL_TABLE, LEVELS
from services.thinker.checkpoint import Checkpoint

_MEL = "input_audio_features"
# Mel frames to which a sound's chunks are padded; the key that the engine's model reads.
CHUNK_WIDTH = "audio_chunk_width"
# vLLM makes a tensor over the read-only bytes, and clones it at once. The filter is set once: items are decoded on
# threads, and one for the time of a call would change those of other threads.
warnings.filterwarnings("ignore", message="The given buffer is not writable")
# Beside the large tensor an item holds a few numbers and a mask.
_SLACK_BYTES = 1 << 20


def most_bytes(modality: str, tokens: int, checkpoint: Checkpoint) -> int:
    """Longest blob that an item of that many tokens can need; what claims to be longer is not pulled."""
    if modality == "audio":
        return _SLACK_BYTES + 16 * 8 * (tokens + 1) * (checkpoint.mel_bins + 1)
    return _SLACK_BYTES + 8 * tokens * checkpoint.merge_size**2 * checkpoint.patch_values


def decode_item(
    data: bytes | bytearray, modality: str, tokens: int, checkpoint: Checkpoint, param: str
) -> MultiModalKwargsItem:
    """vLLM's item out of the msgpack bytes that the preprocess service wrote.

    `tokens` is the number of embeddings that the prompt has room for. Everything that says how items are put together
    is made anew here, the tensors alone are taken. Raises BadInput where they are not what the modality needs.
    """
    try:
        decoded = MsgpackDecoder(t=MultiModalKwargsItem).decode(data)
        values = {str(key): elem.data for key, elem in decoded.items()}
    except Exception:  # msgspec, torch and vLLM raise a dozen kinds for bytes that are no item
        raise _bad("is not an encoded item", param) from None
    try:
        return _ITEMS[modality](values, tokens, checkpoint)
    except _Mismatch as error:
        raise _bad(str(error), param) from None


class _Mismatch(Exception):
    pass


def _bad(what: str, param: str) -> BadInput:
    return BadInput(f"a prepared media item {what}", code="invalid_features", param=param)


def _tensor(values: dict[str, Any], key: str, *, floating: bool, ndim: int) -> torch.Tensor:
    value = values.get(key)
    if not isinstance(value, torch.Tensor) or value.ndim != ndim or value.is_floating_point() != floating:
        raise _Mismatch(f"has no proper {key}")
    return value


def _number(values: dict[str, Any], key: str) -> torch.Tensor:
    value = values[key]
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    if tensor.numel() != 1 or not bool(torch.isfinite(tensor.float()).all()):
        raise _Mismatch(f"has no proper {key}")
    return tensor.reshape(())


def _only(values: dict[str, Any], needed: set[str], optional: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    if not needed <= values.keys() <= needed | optional:
        raise _Mismatch(f"holds {sorted(values)}")


def _elem(data: torch.Tensor, field: BaseMultiModalField) -> MultiModalFieldElem:
    return MultiModalFieldElem(data=data, field=field)


def _patches(
    values: dict[str, Any], pixels: str, grid_key: str, tokens: int, checkpoint: Checkpoint, width: int
) -> dict[str, MultiModalFieldElem]:
    """The patches and their grid: levels [patches, width] with a table, or the values that the encoder takes."""
    grid = _tensor(values, grid_key, floating=False, ndim=1)
    has_levels = LEVEL_TABLE in values
    patches = _tensor(values, pixels, floating=not has_levels, ndim=2)
    if has_levels and patches.dtype != torch.uint8:
        raise _Mismatch(f"has no proper {pixels}")
    merge = checkpoint.merge_size
    if grid.shape != (3,) or int(grid.min()) < 1 or int(grid.max()) > 1 << 20:
        raise _Mismatch(f"has no proper {grid_key}")
    t, h, w = (int(size) for size in grid)
    if h % merge or w % merge or patches.shape != (t * h * w, width if has_levels else checkpoint.patch_values):
        raise _Mismatch(f"has a {pixels} that does not fill its grid")
    if t * h * w // merge**2 != tokens:
        raise _Mismatch(f"makes {t * h * w // merge**2} embeddings where the prompt has room for {tokens}")
    item = {
        pixels: _elem(patches, MultiModalFlatField(slices=[(slice(0, len(patches)),)], dim=0)),
        grid_key: _elem(grid, MultiModalBatchedField(keep_on_cpu=True)),
    }
    if has_levels:
        item[LEVEL_TABLE] = _elem(_level_table(values, checkpoint), MultiModalBatchedField())
    return item


def _level_table(values: dict[str, Any], checkpoint: Checkpoint) -> torch.Tensor:
    table = _tensor(values, LEVEL_TABLE, floating=True, ndim=2)
    if table.dtype != torch.float32 or table.shape != (checkpoint.channels, LEVELS) or not bool(table.isfinite().all()):
        raise _Mismatch(f"has no proper {LEVEL_TABLE}")
    return table


def _image(values: dict[str, Any], tokens: int, checkpoint: Checkpoint) -> MultiModalKwargsItem:
    _only(values, {"pixel_values", "image_grid_thw"}, {LEVEL_TABLE})
    width = checkpoint.patch_values // checkpoint.patch_frames  # its frames are alike
    return MultiModalKwargsItem(_patches(values, "pixel_values", "image_grid_thw", tokens, checkpoint, width))


def _video(values: dict[str, Any], tokens: int, checkpoint: Checkpoint) -> MultiModalKwargsItem:
    _only(values, {"pixel_values_videos", "video_grid_thw", "second_per_grid_ts"}, {"use_audio_in_video", LEVEL_TABLE})
    width = checkpoint.patch_values
    item = _patches(values, "pixel_values_videos", "video_grid_thw", tokens, checkpoint, width)
    seconds = _number(values, "second_per_grid_ts").float()
    if not 0 < float(seconds) < 1e6:
        raise _Mismatch("has no proper second_per_grid_ts")
    item["second_per_grid_ts"] = _elem(seconds, MultiModalBatchedField(keep_on_cpu=True))
    if "use_audio_in_video" in values:
        with_audio = _number(values, "use_audio_in_video").bool()
        item["use_audio_in_video"] = _elem(with_audio, MultiModalSharedField(batch_size=1, keep_on_cpu=True))
    return MultiModalKwargsItem(item)


def _audio(values: dict[str, Any], tokens: int, checkpoint: Checkpoint) -> MultiModalKwargsItem:
    _only(values, {_MEL, "audio_feature_lengths", "feature_attention_mask"})
    mel = _tensor(values, _MEL, floating=True, ndim=2)
    frames = int(_number(values, "audio_feature_lengths"))
    mask = values["feature_attention_mask"]
    if frames < 1 or mel.shape != (checkpoint.mel_bins, frames):
        raise _Mismatch("has an input_audio_features that does not fill its length")
    if not isinstance(mask, torch.Tensor) or mask.shape != (frames,) or not bool((mask == 1).all()):
        raise _Mismatch("has no proper feature_attention_mask")
    if audio_tokens(frames) != tokens:
        raise _Mismatch(f"makes {audio_tokens(frames)} embeddings where the prompt has room for {tokens}")
    return _sound(mel)


def _sound(mel: torch.Tensor) -> MultiModalKwargsItem:
    """Return vLLM's item of a sound's mel frames, [mel bins, frames]."""
    frames = mel.shape[1]
    batched = MultiModalBatchedField(keep_on_cpu=True)
    return MultiModalKwargsItem(
        {
            _MEL: _elem(mel, MultiModalFlatField(slices=[(slice(None), slice(0, frames))], dim=1)),
            "audio_feature_lengths": _elem(torch.tensor(frames), batched),
            "feature_attention_mask": _elem(torch.ones(frames), batched),
        }
    )


@dataclass(frozen=True)
class Window:
    """One window of a sound, an item of its own for vLLM.

    tokens: its embeddings. digest: sha256 of its mel frames.
    """

    item: MultiModalKwargsItem
    tokens: int
    digest: str


def split_windows(sound: MultiModalKwargsItem, checkpoint: Checkpoint) -> list[Window]:
    """Return a sound as the windows that the audio encoder makes of it, in order.

    The encoder's attention stays inside a window, and its convolutions inside a chunk, so a window's embeddings depend
    on its own mel frames and on the chunks' padding alone (`widen_chunks`). As items of their own, the windows of a
    sound that has grown since are found in the prefix cache. What a later part does change in an earlier window (the
    floor that Whisper's extractor takes from the loudest frame) is in its frames, and so in its digest.
    """
    mel: Any = dict(sound.get_data())[_MEL]
    windows: list[Window] = []
    for part in mel.split(checkpoint.audio_window_frames, dim=1):
        frames = part.contiguous()
        digest = hashlib.sha256(frames.view(torch.uint8).numpy())
        digest.update(f"{frames.dtype} {tuple(frames.shape)}".encode())
        windows.append(Window(_sound(frames), audio_tokens(frames.shape[1]), digest.hexdigest()))
    return windows


def widen_chunks(sounds: Sequence[MultiModalKwargsItem], checkpoint: Checkpoint) -> list[int | None]:
    """Gives each sound of one prompt the width that its chunks are padded to; tells it where it is not the sound's own.

    The encoder cuts sounds into chunks and pads them to the longest of the prompt, and what a short chunk becomes
    depends on its padding, for the convolutions' biases fill it (transformers' chunk_and_pad_features). Only the last
    chunk of a sound is ever short, so the longest is a full one where any sound fills one.
    """
    full = checkpoint.audio_chunk_frames
    own = [min(int(_number(dict(sound.get_data()), "audio_feature_lengths")), full) for sound in sounds]
    width = max(own, default=full)
    for sound in sounds:
        sound[CHUNK_WIDTH] = _elem(torch.tensor(width), MultiModalBatchedField(keep_on_cpu=True))
    return [None if frames == width else width for frames in own]


_ITEMS = {"image": _image, "video": _video, "audio": _audio}


def audio_tokens(frames: int) -> int:
    """Embeddings that the audio encoder makes of that many mel frames: 13 of each 100, the rest by three strided
    convolutions (transformers' _get_feat_extract_output_lengths)."""
    rest = frames % 100
    for _ in range(3):
        rest = (rest - 1) // 2 + 1
    return rest + frames // 100 * 13


class FeatureCache:
    """Blobs of media features by key, least recently used dropped first. Not thread-safe: one event loop uses it."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._blobs: OrderedDict[tuple[str, str], bytes | bytearray] = OrderedDict()
        self.used_bytes = 0

    def get(self, tenant: str, hash_: str) -> bytes | bytearray | None:
        blob = self._blobs.get((tenant, hash_))
        if blob is not None:
            self._blobs.move_to_end((tenant, hash_))
        return blob

    def put(self, tenant: str, hash_: str, blob: bytes | bytearray) -> None:
        if len(blob) > self._budget_bytes or (tenant, hash_) in self._blobs:
            return
        self._blobs[tenant, hash_] = blob
        self.used_bytes += len(blob)
        while self.used_bytes > self._budget_bytes:
            _, dropped = self._blobs.popitem(last=False)
            self.used_bytes -= len(dropped)
