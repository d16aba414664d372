"""Media parts → features in the store: each source is read, decoded and processed, or found in a cache."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass

from antiphon.v1 import preprocess_pb2
from services.common.errors import AntiphonError, BadInput, ContextTooLong, forget_frames
from services.common.tensors.store import BlobStore
from services.preprocess import metrics
from services.preprocess.cache import SizedCache
from services.preprocess.decode_prices import DecodePrices
from services.preprocess.decoding.jobs import Decoded, Job, JobKind
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor, ItemShape, PreparedItem
from services.preprocess.item_options import image_bounds, video_options
from services.preprocess.limits import MediaLimits
from services.preprocess.media.problems import MediaProblem, too_many_tokens
from services.preprocess.media.samples import SAMPLE_RATE, Samples
from services.preprocess.media.sampling import VideoOptions
from services.preprocess.media.work import Work
from services.preprocess.memory import AUDIO_TOKENS_PER_S, LONG_SOUND_BYTES, StageBudgets, sound_bytes
from services.preprocess.parts import MediaPart, is_heard
from services.preprocess.preparation import ItemFiles, Preparation
from services.preprocess.sources import Sources, content_hash, hash_content
from services.preprocess.waiting_room import WaitingRoom
from services.preprocess.watched_threads import WatchedThread

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


@dataclass(frozen=True, slots=True)
class ProcessorThread:
    """The checkpoint's processor, and the one thread that it runs on."""

    extractor: FeatureExtractor
    thread: WatchedThread


class MediaLoader:
    """Loads the media of requests. One for a process, on one event loop. Decoders' processes decode; `films` makes the
    features of videos, which take seconds, and `stills` those of everything else beside it."""

    def __init__(
        self,
        stills: ProcessorThread,
        films: ProcessorThread,
        sources: Sources,
        decoders: DecodePool,
        store: BlobStore,
        limits: MediaLimits,
        budgets: StageBudgets,
        *,
        sounds_bytes: int,
        decode_cpu_s: float,
        waiting: WaitingRoom | None = None,
    ) -> None:
        self._extractor = stills.extractor
        self._stills = stills
        self._films = films
        self._sources = sources
        self._decoders = decoders
        self._store = store
        self._limits = limits
        self._budgets = budgets
        self._decode_cpu_s = decode_cpu_s
        self._waiting = waiting or WaitingRoom()
        self.prices = DecodePrices()
        self._shapes: SizedCache[str, ItemShape] = SizedCache(1 << 16, lambda _: 1)
        # Content hashes of films without a sound track.
        self._silent: SizedCache[str, bool] = SizedCache(1 << 12, lambda _: 1)
        self._sounds: SizedCache[str, Samples] = SizedCache(
            sounds_bytes, lambda samples: samples.nbytes + SOUND_OVERHEAD_BYTES
        )

    async def load(self, part: MediaPart, preparation: Preparation) -> Loaded:
        """Hold a picture's features for the request; decode a sound. Raise BadInput, TooLarge or ContextTooLong naming
        the field, Capacity where the store is full, and Unavailable."""
        preparation.timings.items += 1
        async with preparation.loading:
            try:
                loaded = await self._load(part, preparation)
            except (AntiphonError, asyncio.CancelledError) as error:
                forget_frames(error)  # they refer to this task, and it to the error: the files would stay
                raise
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
                return Loaded(part, sound=await self._load_sound(part, preparation))
            if part.part.video.frames:
                return Loaded(part, picture=await self._load_frames(part, preparation))
            return await self._load_video(part, preparation)
        except MediaProblem as problem:
            raise _as_error(problem, part) from None

    async def _content(
        self, source: preprocess_pb2.MediaSource, preparation: Preparation, param: str
    ) -> tuple[str, ItemFiles]:
        """Return the content hash of a source, and its file unless the hash is known without it."""
        files = ItemFiles(preparation)
        known = self._sources.known_hash(source, preparation.tenant)
        if known is not None:
            return known, files
        await self._read(source, preparation, param, files)
        return await hash_content(files.data[0], preparation.tenant), files

    async def _read(
        self, source: preprocess_pb2.MediaSource, preparation: Preparation, param: str, files: ItemFiles
    ) -> None:
        with preparation.timings.measure("fetch"), self._waiting.during_fetch(preparation):
            data = await self._sources.read(source, preparation, param)
        which = source.WhichOneof("source")
        metrics.MEDIA_BYTES.labels(which).inc(len(data))
        files.add(data, reserved=which != "inline_index")

    @asynccontextmanager
    async def _decoded(
        self,
        kind: JobKind,
        files: ItemFiles,
        preparation: Preparation,
        process_bytes: Callable[[Work], int] = lambda work: 0,
        *,
        video: VideoOptions | None = None,
        heard: bool = False,
    ) -> AsyncGenerator[Decoded]:
        """Decode the files and free them. Within the block there is memory for the result and for its processing. What
        its sound takes, the request holds until its end."""
        owner = f"{preparation.tenant}/{preparation.request_id}"
        sound_most = sound_bytes(sum(map(len, files.data)), self._limits) if heard else 0
        while True:
            async with AsyncExitStack() as holds:
                async with preparation.long_sound if sound_most >= LONG_SOUND_BYTES else nullcontext():
                    await preparation.files.grow(sound_most)
                    job = Job(
                        *(kind, tuple(files.data), self._limits, video, heard),
                        *(self._decode_cpu_s, preparation.tenant, owner),
                    )
                    with preparation.timings.measure("decode"):
                        decoded = await self._decoders.decode(
                            job,
                            lambda: self._waiting.enter(preparation),
                            holds,
                            process_bytes,
                            functools.partial(self.prices.add, preparation.request_id),
                        )
                    del job
                    taken = decoded.sound_bytes
                    preparation.files.shrink(sound_most - taken if taken <= sound_most else sound_most)
                if taken <= sound_most:
                    files.free()
                    yield decoded
                    return
            # The sound is longer than its file let expect. Nobody who has a decoded result waits for `files`: it is
            # dropped, and decoded again once there is memory for it.
            del decoded
            sound_most = taken

    async def _cached_sound(self, content: str, preparation: Preparation) -> Samples | None:
        """Return a sound from the cache, held by the request from now on; None where it is not there."""
        samples = self._sounds.get(content)
        if samples is None:
            return None
        size = samples.nbytes
        del samples  # what the cache drops meanwhile is to be free
        await preparation.files.grow(size)
        samples = self._sounds.get(content)
        if samples is None:
            preparation.files.shrink(size)
        return samples

    def leave(self, preparation: Preparation) -> None:
        """Note that the request is over, whether its slot was freed or not."""
        self._waiting.leave(preparation)

    def _cached(self, key: str, preparation: Preparation) -> Item | None:
        """Return the item under `key`, held for the request from now on; None where it is not in the store."""
        shape = self._shapes.get(key)
        if shape is None or key not in self._store:
            return None
        self._store.hold((key,), preparation.request_id)
        return Item(key, shape)

    async def _process(
        self,
        key: str,
        on: ProcessorThread,
        work: Callable[[FeatureExtractor], PreparedItem],
        preparation: Preparation,
    ) -> Item:
        with preparation.timings.measure("process"):
            prepared = await on.thread.run(work, on.extractor)
        self._store.put(key, prepared.kwargs, preparation.request_id)
        self._shapes.put(key, prepared.shape)
        return Item(key, prepared.shape)

    async def _load_image(self, part: MediaPart, preparation: Preparation) -> Item:
        image = part.part.image
        least, most = image_bounds(part, self._extractor.image_max_pixels)
        param = part.source_param(image.source)
        content, files = await self._content(image.source, preparation, param)
        key = self._extractor.item_hash("image", content, **self._extractor.image_size(least, most))
        if cached := self._cached(key, preparation):
            files.free()
            return _count(part, "cached", cached, preparation)
        if not files.data:
            await self._read(image.source, preparation, param, files)
        process_bytes = functools.partial(self._image_bytes, least=least, most=most)
        async with self._decoded("image", files, preparation, process_bytes) as decoded:
            item = await self._process(key, self._stills, lambda on: on.image(decoded.array, least, most), preparation)
        return _count(part, "decoded", item, preparation)

    def _image_bytes(self, work: Work, least: int | None, most: int | None) -> int:
        """Return the memory that the image's processing takes. Raise MediaProblem where it has too many tokens."""
        tokens = self._extractor.image_tokens(work.height, work.width, least, most)
        if tokens > self._limits.item_tokens:
            raise too_many_tokens(
                f"The image alone takes {tokens} tokens, but the model takes at most {self._limits.item_tokens}. "
                "Send a smaller one, or a lower max_pixels."
            )
        return self._extractor.image_bytes(work.height, work.width, least, most)

    async def _load_sound(self, part: MediaPart, preparation: Preparation) -> Sound:
        source = part.part.audio.source
        param = part.source_param(source)
        content, files = await self._content(source, preparation, param)
        samples = await self._cached_sound(content, preparation)
        if samples is not None:
            files.free()
            return Sound(part, content, samples, decoded=False)
        if not files.data:
            await self._read(source, preparation, param, files)
        async with self._decoded("audio", files, preparation, heard=True) as decoded:
            samples = decoded.array
        self._sounds.put(content, samples)
        return Sound(part, content, samples, decoded=True)

    async def _load_video(self, part: MediaPart, preparation: Preparation) -> Loaded:
        video = part.part.video
        options = video_options(part, self._extractor.video_factor)
        param = part.source_param(video.source)
        content, files = await self._content(video.source, preparation, param)
        wanted = is_heard(part, use_audio_in_video=preparation.use_audio)
        heard = wanted and self._silent.get(content) is None
        key = self._film_key(content, options, heard=heard)
        track = f"{content} track"
        cached = self._cached(key, preparation)
        samples = await self._cached_sound(track, preparation) if heard and cached is not None else None
        if cached is not None and (samples is not None or not heard):
            files.free()
            sound = Sound(part, track, samples, decoded=False) if samples is not None else None
            return Loaded(part, _count(part, "cached", cached, preparation), sound)
        if not files.data:
            await self._read(video.source, preparation, param, files)
        sound = None
        async with self._decoded("video", files, preparation, self._film_bytes, video=options, heard=heard) as decoded:
            if decoded.sound is not None:
                self._sounds.put(track, decoded.sound)
                sound = Sound(part, track, decoded.sound, decoded=True)
            elif heard:  # it has no sound: it is only seen
                self._silent.put(content, True)
                key = self._film_key(content, options, heard=False)
            item = await self._process_film(key, decoded, preparation, use_audio=sound is not None)
        return Loaded(part, _count(part, "decoded", item, preparation), sound)

    def _film_key(self, content: str, options: VideoOptions, *, heard: bool) -> str:
        return self._extractor.item_hash(
            "video", content, options=options, max_frames=self._limits.video_frames, audio=heard
        )

    async def _load_frames(self, part: MediaPart, preparation: Preparation) -> Item:
        video = part.part.video
        if len(video.frames) > self._limits.video_frames:
            raise BadInput(
                f"The video has {len(video.frames)} frames. Send at most {self._limits.video_frames}.",
                code="media_too_large",
                param=part.param("video"),
            )
        options = video_options(part, self._extractor.video_factor)
        files = ItemFiles(preparation)
        for i, source in enumerate(video.frames):
            await self._read(source, preparation, part.source_param(source, i), files)
        tenant = preparation.tenant
        content = content_hash("".join([await hash_content(file, tenant) for file in files.data]).encode(), tenant)
        key = self._extractor.item_hash("frames", content, options=options)
        if cached := self._cached(key, preparation):
            files.free()
            return _count(part, "cached", cached, preparation)
        async with self._decoded("frames", files, preparation, self._film_bytes, video=options) as decoded:
            item = await self._process_film(key, decoded, preparation, use_audio=False)
        return _count(part, "decoded", item, preparation)

    def _film_bytes(self, work: Work) -> int:
        return self._extractor.video_bytes(work.frames, work.height, work.width)

    async def _process_film(self, key: str, decoded: Decoded, preparation: Preparation, *, use_audio: bool) -> Item:
        return await self._process(
            key, self._films, lambda on: on.video(decoded.frames, decoded.fps, use_audio=use_audio), preparation
        )

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
                needed = self._extractor.audio_bytes(sound.samples.size, tail)
                async with self._budgets.of(needed).take(
                    needed, what="The audio", tenant=preparation.tenant, param=sound.part.path
                ):
                    item = await self._process(
                        key, self._stills, lambda on, s=sound, t=tail: on.audio(s.samples, t), preparation
                    )
            if sound.part.modality == "audio":  # of a video's track, the picture is counted
                _count(sound.part, work, item, preparation)
            items.append(item)
        return items


def _count(part: MediaPart, work: str, item: Item, preparation: Preparation) -> Item:
    metrics.ITEMS.labels(part.modality, work).inc()
    preparation.timings.cached_items += work == "cached"
    return item


def _as_error(problem: MediaProblem, part: MediaPart) -> AntiphonError:
    media = getattr(part.part, part.modality)
    source = media.source if not getattr(media, "frames", ()) else media.frames[0]
    param = part.param("video") if getattr(media, "frames", ()) else part.source_param(source)
    if problem.code == ContextTooLong.default_code:
        return ContextTooLong(problem.message, param=param)
    return BadInput(problem.message, code=problem.code, param=param)
