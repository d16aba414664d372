"""Files in the input of a response request: what a file holds reaches the model as text, image, sound or video.

The model reads no other files, a PDF among them: they are refused by their type.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from services.common import data_urls
from services.common.errors import BadInput
from services.gateway.http.responses.items import InputFile
from services.gateway.inline_media import EncodedMedia, InlineMedia, decode_base64
from services.gateway.turn.conversation import AudioPart, ImagePart, Part, TextPart, VideoPart

_TEXTS = frozenset({"application/json", "application/x-ndjson", "application/xml", "application/yaml"})
# Where a URL's name tells what a file is.
_KINDS = {
    "image": ("avif", "bmp", "gif", "heic", "jpeg", "jpg", "png", "tif", "tiff", "webp"),
    "audio": ("aac", "flac", "m4a", "mp3", "oga", "ogg", "opus", "wav"),
    "video": ("avi", "mkv", "mov", "mp4", "mpeg", "mpg", "webm"),
}
_TAKEN = "Send text (UTF-8), an image, audio or video; of a PDF its text, or its pages as images."


def file_part(part: InputFile, path: str, inline: InlineMedia) -> Part:
    """Return what the file at `path` holds. Raise BadInput or TooLarge that names the field."""
    if part.file_data and part.file_url:
        raise BadInput(f"Invalid '{path}': send one of file_data and file_url.", param=path)
    if part.file_url:
        return _of_url(part.file_url, part.filename or "", f"{path}.file_url", path, inline)
    if not part.file_data:
        raise BadInput(f"Invalid '{path}': the file is missing. Send file_data or file_url.", param=path)
    return _of_data(part.file_data, f"{path}.file_data", path, inline)


def _of_data(data: str, param: str, path: str, inline: InlineMedia) -> Part:
    if not data[:5].lower() == "data:":
        raise BadInput(f"Invalid '{param}': it is no data: URL. Send data:<type>;base64,<data>.", param=param)
    media_type, start = data_urls.split_data_url(data) or ("", 0)
    kind = media_type.partition("/")[0].lower()
    if start and (kind == "text" or media_type.lower() in _TEXTS):
        if inline.is_draft:
            return TextPart(path, "")  # what is there of it is no whole text
        try:
            return TextPart(path, decode_base64(EncodedMedia(param, data, start)).decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise BadInput(f"Invalid '{param}': the text is not UTF-8. Send it as UTF-8.", param=param) from None
    if start and kind not in _KINDS:
        raise _not_taken(media_type, param)
    return _media(kind, data, param, path, inline)


def _of_url(url: str, filename: str, param: str, path: str, inline: InlineMedia) -> Part:
    try:
        name = filename or urlsplit(url).path
    except ValueError:  # brackets that hold no address
        name = ""
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    kind = next((kind for kind, endings in _KINDS.items() if ending in endings), "")
    if not kind:
        raise _not_taken(ending, param)
    return _media(kind, url, param, path, inline)


def _media(kind: str, url: str, param: str, path: str, inline: InlineMedia) -> Part:
    source = inline.source(url, param)
    match kind:
        case "audio":
            return AudioPart(path, source)
        case "video":
            return VideoPart(path, source)
        case _:
            return ImagePart(path, source)


def _not_taken(what: str, param: str) -> BadInput:
    named = f"files of type '{what[:100]}' are" if what else "a file whose name tells no type is"
    return BadInput(f"Invalid '{param}': {named} not served. {_TAKEN}", param=param, code="unsupported_file")
