"""Media parts → kept features: each source is read, decoded and processed, or found done already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field

from antiphon.v1 import preprocess_pb2
from services.common.errors import AntiphonError, BadInput, ContextTooLong
from services.common.telemetry.tracing import tracer
from services.common.tensors.store import BlobStore
from services.preprocess import metrics
from services.preprocess.cache import SizedCache
from services.preprocess.decoding.jobs import Decoded, Job
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor, ItemShape, PreparedItem, item_hash
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import Samples
from services.preprocess.media.problems import MediaProblem, too_many_tokens
from services.preprocess.media.sampling import DEFAULT_FPS, VideoOptions
from services.preprocess.parts import MediaPart
from services.preprocess.sources import Sources, content_hash

# The cache's own share of a sound: its key, its place in the order, the array's header.
SOUND_OVERHEAD_BYTES = 512


@dataclass(slots=True)
class Timings:
    """Seconds, summed over the items; items answered without decoding or processing, and all."""

    fetch_s: float = 0.0
    decode_s: float = 0.0
    process_s: float = 0.0
    cached_items: int = 0
    items: int = 0

    @contextmanager
    def measure(self, stage: str) -> Generator[None]:
        began = time.perf_counter()
        try:
            with tracer.start_as_current_span(f"antiphon.preprocess.{stage}"):
                yield
        finally:
            took = time.perf_counter() - began
            setattr(self, f"{stage}_s", getattr(self, f"{stage}_s") + took)
            metrics.STAGE_SECONDS.labels(stage).observe(took)


@dataclass(frozen=True, slots=True)
class Item:
    """A part whose features are kept under `key`."""

    key: str
    shape: ItemShape


@dataclass(slots=True)
class Sound:
    """A decoded sound, waiting to know how long the others are; `decoded` where it did not come from the cache."""

    part: MediaPart
    content: str
    samples: Samples
    decoded: bool


@dataclass(slots=True)
class Loaded:
    """What one part has become: `picture` of images and videos, `sound` of audio and of videos that are heard."""

    part: MediaPart
    picture: Item | None = None
    sound: Sound | None = None


@dataclass(slots=True)
class Turn:
    """One Prepare under way."""

    request_id: str
    tenant: str
    inline: Mapping[int, bytes]
    use_audio: bool
    timings: Timings = field(default_factory=Timings)


class MediaLoader:
    """Loads the media of requests. One for a process, on one event loop; `processor_thread` runs the checkpoint's
    processor, decoding happens in the decoders' processes."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        processor_thread: Executor,
        sources: Sources,
        decoders: DecodePool,
        store: BlobStore,
        limits: MediaLimits,
        *,
        sounds_bytes: int,
        decode_cpu_s: float,
    ) -> None:
        self._extractor = extractor
        self._processor_thread = processor_thread
        self._sources = sources
        self._decoders = decoders
        self._store = store
        self._limits = limits
        self._decode_cpu_s = decode_cpu_s
        self._shapes: SizedCache[str, ItemShape] = SizedCache(1 << 16, lambda _: 1)
        self._sounds: SizedCache[str, Samples] = SizedCache(
            sounds_bytes, lambda samples: samples.nbytes + SOUND_OVERHEAD_BYTES
        )

    async def load(self, part: MediaPart, turn: Turn) -> Loaded:
        """Pictures are kept for the turn; sounds are decoded. Raises BadInput, TooLarge, ContextTooLong naming the
        field, and Capacity where the store is full."""
        turn.timings.items += 1
        try:
            if part.modality == "image":
                return Loaded(part, picture=await self._load_image(part, turn))
            if part.modality == "audio":
                source = part.part.audio.source
                content, data = await self._content(source, turn, part.source_param(source))
                return Loaded(part, sound=await self._load_sound(part, content, data, turn))
            if part.part.video.frames:
                return Loaded(part, picture=await self._load_frames(part, turn))
            return await self._load_video(part, turn)
        except MediaProblem as problem:
            raise _as_error(problem, part) from None

    async def _content(self, source: preprocess_pb2.MediaSource, turn: Turn, param: str) -> tuple[str, bytes | None]:
        """The content hash of a source, and its bytes unless the hash is known without them."""
        known = self._sources.known_hash(source, turn.tenant)
        if known is not None:
            return known, None
        data = await self._read(source, turn, param)
        return content_hash(data), data

    async def _read(self, source: preprocess_pb2.MediaSource, turn: Turn, param: str) -> bytes:
        with turn.timings.measure("fetch"):
            data = await self._sources.read(source, turn.inline, turn.tenant, param)
        metrics.MEDIA_BYTES.labels(source.WhichOneof("source")).inc(len(data))
        return data

    async def _decode(self, job: Job, turn: Turn) -> Decoded:
        with turn.timings.measure("decode"):
            return await self._decoders.decode(job)

    def _kept(self, key: str, turn: Turn) -> Item | None:
        """The item under `key`, held for the turn from now on, if it is still here."""
        shape = self._shapes.get(key)
        if shape is None or key not in self._store:
            return None
        self._store.hold((key,), turn.request_id)
        return Item(key, shape)

    async def _process(self, key: str, work: Callable[[], PreparedItem], turn: Turn) -> Item:
        with turn.timings.measure("process"):
            prepared = await asyncio.get_running_loop().run_in_executor(self._processor_thread, work)
        self._store.put(key, prepared.kwargs, turn.request_id)
        self._shapes.put(key, prepared.shape)
        return Item(key, prepared.shape)

    async def _load_image(self, part: MediaPart, turn: Turn) -> Item:
        image = part.part.image
        least, most = self._image_bounds(part)
        param = part.source_param(image.source)
        content, data = await self._content(image.source, turn, param)
        key = item_hash("image", content, min=least, max=most)
        if kept := self._kept(key, turn):
            return _count(part, "cached", kept, turn)
        data = data if data is not None else await self._read(image.source, turn, param)
        decoded = await self._decode(self._job("image", (data,)), turn)
        height, width, _ = decoded.main.shape
        tokens = self._extractor.image_tokens(height, width, least, most)
        if tokens > self._limits.item_tokens:
            raise too_many_tokens(
                f"the image alone needs {tokens} tokens; at most {self._limits.item_tokens} are taken"
            )
        item = await self._process(key, lambda: self._extractor.image(decoded.main, least, most), turn)
        return _count(part, "decoded", item, turn)

    async def _load_sound(self, part: MediaPart, content: str, data: bytes | None, turn: Turn) -> Sound:
        samples = self._sounds.get(content)
        if samples is not None:
            return Sound(part, content, samples, decoded=False)
        if data is None:
            source = part.part.audio.source
            data = await self._read(source, turn, part.source_param(source))
        samples = (await self._decode(self._job("audio", (data,)), turn)).main
        self._sounds.put(content, samples)
        return Sound(part, content, samples, decoded=True)

    async def _load_video(self, part: MediaPart, turn: Turn) -> Loaded:
        video = part.part.video
        options = self._video_options(part)
        param = part.source_param(video.source)
        content, data = await self._content(video.source, turn, param)
        key = item_hash("video", content, options=options, audio=turn.use_audio)
        track = f"{content} track"
        samples = self._sounds.get(track) if turn.use_audio else None
        kept = self._kept(key, turn) if samples is not None or not turn.use_audio else None
        if kept is not None:
            sound = Sound(part, track, samples, decoded=False) if samples is not None else None
            return Loaded(part, _count(part, "cached", kept, turn), sound)
        data = data if data is not None else await self._read(video.source, turn, param)
        decoded = await self._decode(self._job("video", (data,), options, with_sound=turn.use_audio), turn)
        sound = None
        if decoded.sound is not None:
            self._sounds.put(track, decoded.sound)
            sound = Sound(part, track, decoded.sound, decoded=True)
        item = await self._process(
            key, lambda: self._extractor.video(decoded.main, decoded.fps, use_audio=turn.use_audio), turn
        )
        return Loaded(part, _count(part, "decoded", item, turn), sound)

    async def _load_frames(self, part: MediaPart, turn: Turn) -> Item:
        video = part.part.video
        if turn.use_audio:
            raise BadInput(
                "a video given as frames has no sound track, and use_audio_in_video is on", param=part.param("video")
            )
        if len(video.frames) > self._limits.video_frames:
            raise BadInput(
                f"the video has {len(video.frames)} frames; at most {self._limits.video_frames} are taken",
                code="media_too_large",
                param=part.param("video"),
            )
        options = self._video_options(part)
        files = [await self._read(source, turn, part.source_param(source, i)) for i, source in enumerate(video.frames)]
        content = content_hash("".join(content_hash(file) for file in files).encode())
        key = item_hash("frames", content, options=options)
        if kept := self._kept(key, turn):
            return _count(part, "cached", kept, turn)
        decoded = await self._decode(self._job("frames", tuple(files), options), turn)
        item = await self._process(key, lambda: self._extractor.video(decoded.main, decoded.fps, use_audio=False), turn)
        return _count(part, "decoded", item, turn)

    async def prepare_sounds(self, sounds: Sequence[Sound], turn: Turn) -> list[Item]:
        """The features of all sounds of a prompt, in order of appearance, as transformers makes them side by side."""
        longest = max((sound.samples.size for sound in sounds), default=0)
        items: list[Item] = []
        for sound in sounds:
            tail = min(longest - sound.samples.size, self._extractor.max_tail)
            key = item_hash("audio", sound.content, tail=tail)
            item = self._kept(key, turn)
            work = "decoded" if sound.decoded else "cached" if item else "processed"
            if item is None:
                item = await self._process(key, lambda s=sound, t=tail: self._extractor.audio(s.samples, t), turn)
            if sound.part.modality == "audio":  # of a video's track, the picture is counted
                _count(sound.part, work, item, turn)
            items.append(item)
        return items

    def _job(
        self, kind: str, files: tuple[bytes, ...], video: VideoOptions | None = None, *, with_sound: bool = False
    ) -> Job:
        return Job(kind, files, self._limits, video, with_sound, self._decode_cpu_s)  # pyright: ignore[reportArgumentType]

    def _image_bounds(self, part: MediaPart) -> tuple[int | None, int | None]:
        """The client's bounds. One may not ask for more than the checkpoint's own largest image."""
        least, most = _pixel_bounds(part.part.image, part)
        largest = self._extractor.image_max_pixels
        if least is not None and least > largest:
            raise BadInput(f"min_pixels may be at most {largest}", param=part.param("min_pixels"))
        return least, min(most, largest) if most is not None else None

    def _video_options(self, part: MediaPart) -> VideoOptions:
        video = part.part.video
        least, most = _pixel_bounds(video, part)
        total = video.total_pixels if video.HasField("total_pixels") else None
        fps = video.fps if video.HasField("fps") else None
        if fps is not None and not 0 < fps <= 240:
            raise BadInput("fps must be over 0 and at most 240", param=part.param("fps"))
        return VideoOptions(self._extractor.video_factor, fps or DEFAULT_FPS, least, most, total)


def _count(part: MediaPart, work: str, item: Item, turn: Turn) -> Item:
    metrics.ITEMS.labels(part.modality, work).inc()
    turn.timings.cached_items += work == "cached"
    return item


def _pixel_bounds(
    media: preprocess_pb2.ImagePart | preprocess_pb2.VideoPart, part: MediaPart
) -> tuple[int | None, int | None]:
    least = media.min_pixels if media.HasField("min_pixels") else None
    most = media.max_pixels if media.HasField("max_pixels") else None
    for name, value in (("min_pixels", least), ("max_pixels", most)):
        if value is not None and value < 1:
            raise BadInput(f"{name} must be at least 1", param=part.param(name))
    if least is not None and most is not None and least > most:
        raise BadInput("min_pixels is more than max_pixels", param=part.param("min_pixels"))
    return least, most


def _as_error(problem: MediaProblem, part: MediaPart) -> AntiphonError:
    media = getattr(part.part, part.modality)
    source = media.source if not getattr(media, "frames", ()) else media.frames[0]
    param = part.param("video") if getattr(media, "frames", ()) else part.source_param(source)
    if problem.code == ContextTooLong.default_code:
        return ContextTooLong(problem.message, param=param)
    return BadInput(problem.message, code=problem.code, param=param)
