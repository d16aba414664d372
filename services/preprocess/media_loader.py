"""Media parts → features in the store: each source is read, decoded and processed, or found in a cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from antiphon.v1 import preprocess_pb2
from services.common.errors import AntiphonError, BadInput, ContextTooLong
from services.common.tensors.store import BlobStore
from services.preprocess import metrics
from services.preprocess.cache import SizedCache
from services.preprocess.decoding.jobs import Decoded, Job
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor, ItemShape, PreparedItem
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import SAMPLE_RATE, Samples
from services.preprocess.media.problems import MediaProblem, too_many_tokens
from services.preprocess.media.sampling import DEFAULT_FPS, VideoOptions
from services.preprocess.parts import MediaPart
from services.preprocess.preparation import Preparation
from services.preprocess.sources import Sources, content_hash

AUDIO_TOKENS_PER_S = 13
# The cache's own share of a sound: its key, its place in the order, the array's header.
SOUND_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Item:
    """A part whose features are in the store under `key`."""

    key: str
    shape: ItemShape


@dataclass(slots=True)
class Sound:
    """A decoded sound. Its features wait for the length of the prompt's longest. `decoded`: not from the cache."""

    part: MediaPart
    content: str
    samples: Samples
    decoded: bool


@dataclass(slots=True)
class Loaded:
    """A loaded part: `picture` of images and videos, `sound` of audio and of videos that are heard."""

    part: MediaPart
    picture: Item | None = None
    sound: Sound | None = None


class MediaLoader:
    """Loads the media of requests. One for a process, on one event loop; `processor_thread` runs the checkpoint's
    processor, and decoders' processes decode."""

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

    async def load(self, part: MediaPart, preparation: Preparation) -> Loaded:
        """Hold a picture's features for the request; decode a sound. Raise BadInput, TooLarge or ContextTooLong naming
        the field, Capacity where the store is full, and Unavailable."""
        preparation.timings.items += 1
        async with preparation.loading:
            loaded = await self._load(part, preparation)
        if loaded.picture is not None:
            preparation.spend_tokens(loaded.picture.shape.tokens, part.path)
        if loaded.sound is not None:
            preparation.spend_tokens(loaded.sound.samples.size // SAMPLE_RATE * AUDIO_TOKENS_PER_S, part.path)
        return loaded

    async def _load(self, part: MediaPart, preparation: Preparation) -> Loaded:
        try:
            if part.modality == "image":
                return Loaded(part, picture=await self._load_image(part, preparation))
            if part.modality == "audio":
                source = part.part.audio.source
                content, data = await self._content(source, preparation, part.source_param(source))
                return Loaded(part, sound=await self._load_sound(part, content, data, preparation))
            if part.part.video.frames:
                return Loaded(part, picture=await self._load_frames(part, preparation))
            return await self._load_video(part, preparation)
        except MediaProblem as problem:
            raise _as_error(problem, part) from None

    async def _content(
        self, source: preprocess_pb2.MediaSource, preparation: Preparation, param: str
    ) -> tuple[str, bytes | None]:
        """Return the content hash of a source, and its bytes unless the hash is known without them."""
        known = self._sources.known_hash(source, preparation.tenant)
        if known is not None:
            return known, None
        data = await self._read(source, preparation, param)
        return content_hash(data), data

    async def _read(self, source: preprocess_pb2.MediaSource, preparation: Preparation, param: str) -> bytes:
        with preparation.timings.measure("fetch"):
            data = await self._sources.read(source, preparation.inline, preparation.tenant, param)
        metrics.MEDIA_BYTES.labels(source.WhichOneof("source")).inc(len(data))
        preparation.spend_bytes(len(data), param)
        return data

    async def _decode(self, job: Job, preparation: Preparation) -> Decoded:
        with preparation.timings.measure("decode"):
            return await self._decoders.decode(job)

    def _cached(self, key: str, preparation: Preparation) -> Item | None:
        """Return the item under `key`, held for the request from now on; None where it is not in the store."""
        shape = self._shapes.get(key)
        if shape is None or key not in self._store:
            return None
        self._store.hold((key,), preparation.request_id)
        return Item(key, shape)

    async def _process(self, key: str, work: Callable[[], PreparedItem], preparation: Preparation) -> Item:
        with preparation.timings.measure("process"):
            prepared = await asyncio.get_running_loop().run_in_executor(self._processor_thread, work)
        self._store.put(key, prepared.kwargs, preparation.request_id)
        self._shapes.put(key, prepared.shape)
        return Item(key, prepared.shape)

    async def _load_image(self, part: MediaPart, preparation: Preparation) -> Item:
        image = part.part.image
        least, most = self._image_bounds(part)
        param = part.source_param(image.source)
        content, data = await self._content(image.source, preparation, param)
        key = self._extractor.item_hash("image", content, **self._extractor.image_size(least, most))
        if cached := self._cached(key, preparation):
            return _count(part, "cached", cached, preparation)
        data = data if data is not None else await self._read(image.source, preparation, param)
        decoded = await self._decode(self._job("image", (data,)), preparation)
        height, width, _ = decoded.main.shape
        tokens = self._extractor.image_tokens(height, width, least, most)
        if tokens > self._limits.item_tokens:
            raise too_many_tokens(
                f"The image alone takes {tokens} tokens, but the model takes at most {self._limits.item_tokens}. "
                "Send a smaller one, or a lower max_pixels."
            )
        item = await self._process(key, lambda: self._extractor.image(decoded.main, least, most), preparation)
        return _count(part, "decoded", item, preparation)

    async def _load_sound(self, part: MediaPart, content: str, data: bytes | None, preparation: Preparation) -> Sound:
        samples = self._sounds.get(content)
        if samples is not None:
            return Sound(part, content, samples, decoded=False)
        if data is None:
            source = part.part.audio.source
            data = await self._read(source, preparation, part.source_param(source))
        samples = (await self._decode(self._job("audio", (data,)), preparation)).main
        self._sounds.put(content, samples)
        return Sound(part, content, samples, decoded=True)

    async def _load_video(self, part: MediaPart, preparation: Preparation) -> Loaded:
        video = part.part.video
        options = self._video_options(part)
        param = part.source_param(video.source)
        content, data = await self._content(video.source, preparation, param)
        key = self._extractor.item_hash(
            "video", content, options=options, max_frames=self._limits.video_frames, audio=preparation.use_audio
        )
        track = f"{content} track"
        samples = self._sounds.get(track) if preparation.use_audio else None
        cached = self._cached(key, preparation) if samples is not None or not preparation.use_audio else None
        if cached is not None:
            sound = Sound(part, track, samples, decoded=False) if samples is not None else None
            return Loaded(part, _count(part, "cached", cached, preparation), sound)
        data = data if data is not None else await self._read(video.source, preparation, param)
        decoded = await self._decode(
            self._job("video", (data,), options, with_sound=preparation.use_audio), preparation
        )
        sound = None
        if decoded.sound is not None:
            self._sounds.put(track, decoded.sound)
            sound = Sound(part, track, decoded.sound, decoded=True)
        item = await self._process(
            key, lambda: self._extractor.video(decoded.main, decoded.fps, use_audio=preparation.use_audio), preparation
        )
        return Loaded(part, _count(part, "decoded", item, preparation), sound)

    async def _load_frames(self, part: MediaPart, preparation: Preparation) -> Item:
        video = part.part.video
        if preparation.use_audio:
            raise BadInput(
                "A video given as frames has no sound track. Send a video file, or turn use_audio_in_video off.",
                param=part.param("video"),
            )
        if len(video.frames) > self._limits.video_frames:
            raise BadInput(
                f"The video has {len(video.frames)} frames. Send at most {self._limits.video_frames}.",
                code="media_too_large",
                param=part.param("video"),
            )
        options = self._video_options(part)
        files = [
            await self._read(source, preparation, part.source_param(source, i)) for i, source in enumerate(video.frames)
        ]
        content = content_hash("".join(content_hash(file) for file in files).encode())
        key = self._extractor.item_hash("frames", content, options=options)
        if cached := self._cached(key, preparation):
            return _count(part, "cached", cached, preparation)
        decoded = await self._decode(self._job("frames", tuple(files), options), preparation)
        item = await self._process(
            key, lambda: self._extractor.video(decoded.main, decoded.fps, use_audio=False), preparation
        )
        return _count(part, "decoded", item, preparation)

    async def prepare_sounds(self, sounds: Sequence[Sound], preparation: Preparation) -> list[Item]:
        """Return the features of a prompt's sounds, in order of appearance, as transformers makes them in one batch."""
        longest = max((sound.samples.size for sound in sounds), default=0)
        items: list[Item] = []
        for sound in sounds:
            tail = min(longest - sound.samples.size, self._extractor.max_tail)
            key = self._extractor.item_hash("audio", sound.content, tail=tail)
            item = self._cached(key, preparation)
            work = "decoded" if sound.decoded else "cached" if item else "processed"
            if item is None:
                item = await self._process(
                    key, lambda s=sound, t=tail: self._extractor.audio(s.samples, t), preparation
                )
            if sound.part.modality == "audio":  # of a video's track, the picture is counted
                _count(sound.part, work, item, preparation)
            items.append(item)
        return items

    def _job(
        self, kind: str, files: tuple[bytes, ...], video: VideoOptions | None = None, *, with_sound: bool = False
    ) -> Job:
        return Job(kind, files, self._limits, video, with_sound, self._decode_cpu_s)  # pyright: ignore[reportArgumentType]

    def _image_bounds(self, part: MediaPart) -> tuple[int | None, int | None]:
        """Return the client's bounds, within the checkpoint's own largest image."""
        least, most = _pixel_bounds(part.part.image, part)
        largest = self._extractor.image_max_pixels
        if least is not None and least > largest:
            raise BadInput(f"min_pixels is {least}. Send at most {largest}.", param=part.param("min_pixels"))
        return least, min(most, largest) if most is not None else None

    def _video_options(self, part: MediaPart) -> VideoOptions:
        video = part.part.video
        least, most = _pixel_bounds(video, part)
        total = video.total_pixels if video.HasField("total_pixels") else None
        fps = video.fps if video.HasField("fps") else None
        if fps is not None and not 0 < fps <= 240:
            raise BadInput("fps must be over 0 and at most 240.", param=part.param("fps"))
        return VideoOptions(self._extractor.video_factor, fps or DEFAULT_FPS, least, most, total)


def _count(part: MediaPart, work: str, item: Item, preparation: Preparation) -> Item:
    metrics.ITEMS.labels(part.modality, work).inc()
    preparation.timings.cached_items += work == "cached"
    return item


def _pixel_bounds(
    media: preprocess_pb2.ImagePart | preprocess_pb2.VideoPart, part: MediaPart
) -> tuple[int | None, int | None]:
    least = media.min_pixels if media.HasField("min_pixels") else None
    most = media.max_pixels if media.HasField("max_pixels") else None
    for name, value in (("min_pixels", least), ("max_pixels", most)):
        if value is not None and value < 1:
            raise BadInput(f"{name} must be at least 1.", param=part.param(name))
    if least is not None and most is not None and least > most:
        raise BadInput("min_pixels is more than max_pixels. Send a smaller one.", param=part.param("min_pixels"))
    return least, most


def _as_error(problem: MediaProblem, part: MediaPart) -> AntiphonError:
    media = getattr(part.part, part.modality)
    source = media.source if not getattr(media, "frames", ()) else media.frames[0]
    param = part.param("video") if getattr(media, "frames", ()) else part.source_param(source)
    if problem.code == ContextTooLong.default_code:
        return ContextTooLong(problem.message, param=param)
    return BadInput(problem.message, code=problem.code, param=param)
