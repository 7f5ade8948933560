"""Encodes and decodes the fields of messages, as `guides/values.md` specifies.

A field has bytes, and a kind that says how they were encoded. With a peer that sends no kinds the
plain rules apply: received bytes are JSON if they parse, otherwise UTF-8 text, otherwise `bytes`;
sent values are JSON, except that `bytes` are sent unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from snakepit_bridge._types.encoders import (
    DIRECT,
    Substitutes,
    is_array,
    is_encoded_frame,
    substitutes,
)
from snakepit_bridge._types.invalid import MAX_DEPTH, InvalidValueError, path_to, too_deep
from snakepit_bridge._values import strict_json
from snakepit_bridge._values.extended_reader import decode_extended
from snakepit_bridge._values.extended_writer import (
    check_text,
    encode_array,
    encode_extended,
    encode_with,
    encode_with_care,
    named_items,
)
from snakepit_bridge._values.tagged import BYTES_CLASSES, TAGGED_CLASSES

__all__ = [
    "MAX_DEPTH",
    "InvalidValueError",
    "decode",
    "decode_extended",
    "decode_fields",
    "encode",
    "encode_extended",
    "encode_fields",
]

PLAIN, TEXT, BYTES, JSON, EXTENDED = range(5)


def decode_fields(fields: Mapping[str, bytes], kinds: Optional[bytes] = None) -> dict[str, Any]:
    """Decodes the values of an argument map."""
    if kinds is None:
        return {name: decode(data, name) for name, data in fields.items()}
    if len(kinds) != len(fields):
        raise InvalidValueError(f"{len(fields)} arguments came with {len(kinds)} kinds")
    return {name: decode(fields[name], name, kind) for name, kind in zip(sorted(fields), kinds)}


def decode(data: bytes, name: str = "value", kind: int = PLAIN) -> Any:
    """Decodes one value."""
    if kind == BYTES:
        return data
    if kind == EXTENDED:
        return decode_extended(data, name)
    if kind > EXTENDED:
        raise InvalidValueError(f"{name} has the unknown kind {kind}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        if kind == PLAIN:
            return data
        raise InvalidValueError(f"{name} is marked as text but is not valid UTF-8") from None
    return text if kind == TEXT else _read(text, data, name, kind)


def _read(text: str, data: bytes, name: str, kind: int) -> Any:
    try:
        value = strict_json.read(text, name)
    except InvalidValueError:
        raise
    except ValueError as error:
        if kind == PLAIN:
            return text
        raise InvalidValueError(f"{name} is not valid JSON: {error}") from None
    if strict_json.is_too_deep(data):
        raise too_deep(name)
    return value


def encode_fields(
    result: object, root: str = "result", *, kinds: bool = False
) -> tuple[dict[str, bytes], Optional[bytes]]:
    """Returns the fields of a dict, or the single field "result", and their kinds if requested.

    Raises an `InvalidValueError`, in which the whole value is called `root`.
    """
    if not isinstance(result, dict):
        kind, data = encode(result, root, kinds=kinds)
        return {"result": data}, bytes((kind,)) if kinds else None
    entries = named_items(result, root)
    encoded = {_checked(name): encode(value, root, name, kinds=kinds) for name, value in entries}
    if len(encoded) < len(entries):
        raise InvalidValueError(f"{root} has two keys with the same text")
    fields = {name: data for name, (_, data) in encoded.items()}
    return fields, bytes(encoded[name][0] for name in sorted(encoded)) if kinds else None


def encode(
    value: object, root: str = "result", *name: str, kinds: bool = False
) -> tuple[int, bytes]:
    """Returns the kind and the bytes of a value."""
    if isinstance(value, BYTES_CLASSES):
        return BYTES, bytes(value)
    if kinds and type(value) is str:
        try:
            return TEXT, value.encode()
        except UnicodeEncodeError:
            check_text(value, path_to(root, *name))
    # An array would be converted once to find that it is not JSON, and then again.
    if kinds and not isinstance(value, strict_json.JSON_CLASSES) and is_array(value):
        data = encode_array(value)
        if data is not None:
            return EXTENDED, data
    given = substitutes()
    try:
        return _encoded(given, value, (root, *name), kinds=kinds)
    finally:
        given.clear()


def _encoded(
    given: Substitutes, value: object, names: tuple[str, ...], *, kinds: bool
) -> tuple[int, bytes]:
    encoder = _encoder if given is DIRECT else _encoder_with(given)
    try:
        data = encoder.encode(value).encode()
    except (TypeError, ValueError, RecursionError):
        data = None
    if data is not None and not strict_json.is_too_deep(data):
        return JSON, data
    path = path_to(*names)
    if kinds:
        return EXTENDED, encode_with(given, value, path)
    return JSON, encode_with_care(given, value, path)


def _encoder_with(given: Substitutes) -> strict_json.JsonEncoder:
    def substitute(value: object) -> object:
        # A frame is not converted here only to find that it is not JSON: it would be converted
        # twice.
        if isinstance(value, TAGGED_CLASSES) or is_encoded_frame(value):
            raise TypeError("not JSON")
        return given.of(value)

    return strict_json.JsonEncoder(substitute, allow_nan=False)


_encoder = _encoder_with(DIRECT)


def _checked(name: str) -> str:
    if not name.isascii():
        check_text(name, f"the key {name!r}")
    return name
