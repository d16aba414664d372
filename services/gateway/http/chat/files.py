"""Files in the messages of a request: what a file holds reaches the model as text, image, sound or video.

The model reads no other files, a PDF among them: they are refused by their type.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from services.common import data_urls
from services.common.errors import BadInput
from services.gateway.http.chat.parts import FileFields
from services.gateway.inline_media import EncodedMedia, InlineMedia, NamedFile, decode_base64
from services.gateway.turn.conversation import AudioPart, ImagePart, MediaSource, Part, TextPart, VideoPart

_TEXTS = frozenset({"application/json", "application/x-ndjson", "application/xml", "application/yaml"})
_LONGEST_SCHEME = 16
# Types of whoever knows no better.
_NO_TYPES = frozenset({"", "application/octet-stream"})
# Where a file's name tells what it is.
_KINDS = {
    "text": ("csv", "htm", "html", "json", "jsonl", "log", "md", "srt", "tsv", "txt", "vtt", "xml", "yaml", "yml"),
    "image": ("avif", "bmp", "gif", "heic", "jpeg", "jpg", "png", "tif", "tiff", "webp"),
    "audio": ("aac", "flac", "m4a", "mp3", "oga", "ogg", "opus", "wav"),
    "video": ("avi", "mkv", "mov", "mp4", "mpeg", "mpg", "webm"),
}
_TAKEN = "Send text (UTF-8), an image, audio or video; of a PDF its text, or its pages as images."


def file_part(file: FileFields, path: str, at: str, inline: InlineMedia) -> Part:
    """Return what the file of the part at `path` holds, with its fields below `at`. Raise BadInput or TooLarge that
    names the field."""
    name = file.filename or ""
    if sum(map(bool, (file.file_data, file.file_url, file.file_id))) > 1:
        raise BadInput(f"Invalid '{at}': send one of file_data, file_url and file_id.", param=at)
    if file.file_id:
        inline.named_files.append(NamedFile(path, f"{at}.file_id", file.file_id, name))
        return TextPart(path, "")  # named_files.py puts another one in its place
    if file.file_url:
        return _of_url(file.file_url, name, f"{at}.file_url", path, inline)
    if not file.file_data:
        raise BadInput(f"Invalid '{at}': the file is missing. Send file_data, file_url or file_id.", param=at)
    return _of_data(file.file_data, name, f"{at}.file_data", path, inline)


def _of_data(data: str, filename: str, param: str, path: str, inline: InlineMedia) -> Part:
    media_type, start = "", 0
    if ":" in data[:_LONGEST_SCHEME]:  # base64 has none
        found = data_urls.split_data_url(data) if data[:5].lower() == "data:" else None
        if found is None:
            raise BadInput(f"Invalid '{param}': it is no data: URL. Send data:<type>;base64,<data>.", param=param)
        media_type, start = found
    kind = media_type.partition("/")[0]
    if media_type in _TEXTS:
        kind = "text"
    elif media_type in _NO_TYPES:
        kind = _kind_of(filename)
    if kind == "text":
        if inline.is_draft:
            return TextPart(path, "")  # what is there of it is no whole text
        return text_part(decode_base64(EncodedMedia(param, data, start)), param, path)
    if kind not in _KINDS:
        raise _not_taken(media_type if media_type not in _NO_TYPES else _ending_of(filename), param)
    return media_part(kind, inline.source(data, param, bare_base64=True), path)


def _of_url(url: str, filename: str, param: str, path: str, inline: InlineMedia) -> Part:
    try:
        name = filename or urlsplit(url).path
    except ValueError:  # brackets that hold no address
        name = ""
    kind = _kind_of(name)
    if kind in ("", "text"):  # nothing that is fetched becomes text
        raise _not_taken(_ending_of(name), param)
    return media_part(kind, inline.source(url, param), path)


def kind_of_file(name: str, param: str) -> str:
    """Return what a file of this name holds: text, image, audio or video. Raise BadInput where its ending tells none of
    them."""
    if not (kind := _kind_of(name)):
        raise _not_taken(_ending_of(name), param)
    return kind


def text_part(data: bytes | bytearray, param: str, path: str) -> TextPart:
    """Raise BadInput where the text is not UTF-8."""
    try:
        return TextPart(path, data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BadInput(f"Invalid '{param}': the text is not UTF-8. Send it as UTF-8.", param=param) from None


def _kind_of(name: str) -> str:
    """Return what a file of this name holds; "" = its ending does not tell."""
    ending = _ending_of(name)
    return next((kind for kind, endings in _KINDS.items() if ending in endings), "")


def _ending_of(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def media_part(kind: str, source: MediaSource, path: str) -> Part:
    match kind:
        case "audio":
            return AudioPart(path, source)
        case "video":
            return VideoPart(path, source)
        case _:
            return ImagePart(path, source)


def _not_taken(what: str, param: str) -> BadInput:
    named = f"files of type '{what[:100]}' are" if what else "a file whose type and name do not tell what it holds is"
    return BadInput(f"Invalid '{param}': {named} not served. {_TAKEN}", param=param, code="unsupported_file")
