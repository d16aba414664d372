"""How many fields the bytes of a protobuf message hold, counted before it is parsed.

Two bytes are enough for an empty message, which takes some 60 once parsed.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.common.errors import TooLarge

_TEXTS = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})


def check_field_count(data: bytes, message: Descriptor, most: int) -> None:
    """Raise TooLarge where `data`, a `message`, holds more than `most` fields, those of nested messages included.

    A number of a packed list counts as a field. Broken bytes are left to the parser.
    """
    fields = 0
    left = [(0, len(data), message)]
    while left:
        at, end, kind = left.pop()
        while at < end:
            tag, at = _varint(data, at)
            fields += 1
            match tag & 7:
                case 0:
                    _, at = _varint(data, at)
                case 1:
                    at += 8
                case 2:
                    length, at = _varint(data, at)
                    field = kind.fields_by_number.get(tag >> 3)
                    if field is not None and field.message_type is not None:
                        left.append((at, min(at + length, end), field.message_type))
                    elif field is not None and field.type not in _TEXTS:
                        fields += length
                    at += length
                case 5:
                    at += 4
                case _:  # groups, which no message here has
                    return
            if fields > most:
                raise TooLarge(
                    f"The request holds more than {most} fields. Send fewer messages or parts.", code="too_many_values"
                )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at`, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            break
        shift += 7
    return value, at
