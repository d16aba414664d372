"""Lists and checks the media parts of a conversation, and names them for errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.errors import BadInput
from services.common.media_counts import MediaItem, by_modality, check_media_counts


def is_remote(source: preprocess_pb2.MediaSource) -> bool:
    return source.WhichOneof("source") == "url" and source.url[:5].lower() != "data:"


@dataclass(frozen=True, slots=True)
class MediaPart:
    """`modality` is "image", "audio" or "video"; `path` is where the client wrote the part."""

    modality: str
    path: str
    part: preprocess_pb2.Part

    def param(self, field: str) -> str:
        return f"{self.path}.{field}" if self.path else field

    def source_param(self, source: preprocess_pb2.MediaSource, frame: int | None = None) -> str:
        """OpenAI's name of the field that holds `source`."""
        if frame is not None:
            return self.param(f"video[{frame}]")
        if self.modality == "audio" and not is_remote(source):
            return self.param("input_audio.data")
        return self.param(f"{self.modality}_url.url")


def media_parts(messages: Sequence[preprocess_pb2.Message]) -> Iterator[MediaPart]:
    """Yield the media parts in order of appearance, which is the order of their placeholders."""
    for i, message in enumerate(messages):
        for j, part in enumerate(message.parts):
            kind = part.WhichOneof("content")
            if kind in ("image", "audio", "video"):
                yield MediaPart(kind, part.path or f"messages[{i}].content[{j}]", part)


def is_heard(part: MediaPart, *, use_audio_in_video: bool) -> bool:
    """Whether the part is a video file that is to be heard, if it has sound."""
    video = part.part.video
    if part.modality != "video" or video.frames:
        return False
    return video.use_audio if video.HasField("use_audio") else use_audio_in_video


def check_conversation(
    messages: Sequence[preprocess_pb2.Message],
    parts: Sequence[MediaPart],
    card: common_pb2.ModelCard,
    *,
    use_audio_in_video: bool,
) -> None:
    """Raise BadInput for an empty conversation, too much media, or a part that the model does not take."""
    if not messages:
        raise BadInput("The conversation is empty. Send at least one message.", param="messages")
    if card.HasField("max_items"):
        items = (
            MediaItem(part.modality, part.path, has_sound=is_heard(part, use_audio_in_video=use_audio_in_video))
            for part in parts
        )
        check_media_counts(items, by_modality(card.max_items), use_audio_in_video=True)
    if card.kind == common_pb2.MODEL_KIND_CAPTIONER:
        _check_captioner(messages, parts)


def _check_captioner(messages: Sequence[preprocess_pb2.Message], parts: Sequence[MediaPart]) -> None:
    for part in parts:
        if part.modality != "audio":
            raise BadInput(f"This model takes one audio and no {part.modality}.", param=part.path)
    for i, message in enumerate(messages):
        for j, part in enumerate(message.parts):
            if part.WhichOneof("content") == "text" and part.text:
                raise BadInput(
                    "This model takes one audio and no text.", param=part.path or f"messages[{i}].content[{j}]"
                )
    if len(parts) != 1 or len(messages) != 1:
        raise BadInput("This model takes exactly one audio, in one user message.", param="messages")


def sources_of(part: MediaPart) -> Sequence[preprocess_pb2.MediaSource]:
    """Return the part's files: one, or the frames of a video that is given as images."""
    media = getattr(part.part, part.modality)
    return getattr(media, "frames", ()) or (media.source,)


def inline_indices(messages: Sequence[preprocess_pb2.Message]) -> dict[int, str]:
    """Return the inline files that a conversation names, each with the (first) field that names it."""
    named: dict[int, str] = {}
    for part in media_parts(messages):
        sources = sources_of(part)
        of_frames = part.modality == "video" and bool(part.part.video.frames)
        for i, source in enumerate(sources):
            field = part.source_param(source, i if of_frames else None)
            if source.WhichOneof("source") == "inline_index":
                named.setdefault(source.inline_index, field)
    return named
