"""How values travel: the plain rules that every peer understands.

Received bytes are JSON if they parse, else UTF-8 text, else `bytes`. Sent values are JSON, except
that `bytes` go as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_DEPTH = 128

_LONGEST_PATH = 60

_JSON_KEYS = {True: "true", False: "false", None: "null"}


class InvalidValueError(ValueError):
    """A value that cannot travel; the message says where it is and what it is."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _exact_int(digits: str) -> int:
    # int() refuses texts of more than 4300 digits by default; Decimal does not.
    from decimal import Decimal

    return int(Decimal(digits))


_loads = json.JSONDecoder(parse_constant=_refuse_constant).decode
_exact_loads = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_exact_int).decode
_dumps = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def decode(data: bytes, name: str = "value") -> Any:
    """The value that `data` stands for."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    try:
        value = _loads(text)
    except json.JSONDecodeError:
        return text
    except ValueError:
        try:
            value = _exact_loads(text)
        except ValueError:
            return text
    except RecursionError:
        raise _too_deep(name) from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value, name, MAX_DEPTH)
    return value


def decode_fields(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """The values of an argument map."""
    return {name: decode(data, name) for name, data in fields.items()}


def encode_fields(result: object, root: str = "result") -> dict[str, bytes]:
    """The fields of a result: those of a dict, or the one field "result".

    Raises `InvalidValueError`, which calls the whole value `root`.
    """
    if isinstance(result, dict):
        return {_field_name(key): encode(value, root, key) for key, value in result.items()}
    return {"result": encode(result, root)}


def encode(value: object, root: str = "result", *key: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    try:
        data = _dumps(value).encode()
    except (TypeError, ValueError, RecursionError):
        return _encode_with_care(value, _path(root, *key), MAX_DEPTH).encode()
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value, _path(root, *key), MAX_DEPTH)
    return data


def _encode_with_care(value: Any, path: str, depth: int) -> str:
    """Encodes what the fast encoder cannot, or says exactly why it cannot be encoded."""
    if isinstance(value, (dict, list, tuple)) and depth == 0:
        raise _too_deep(path)
    if isinstance(value, dict):
        items = (
            f"{_encode_with_care(_key(key), path, depth)}:"
            f"{_encode_with_care(item, _path(path, key), depth - 1)}"
            for key, item in value.items()
        )
        return f"{{{','.join(items)}}}"
    if isinstance(value, (list, tuple)):
        items = (
            _encode_with_care(item, f"{path}[{index}]", depth - 1)
            for index, item in enumerate(value)
        )
        return f"[{','.join(items)}]"
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(f"{path} is {value!r}, which JSON cannot carry")
    if isinstance(value, int) and not isinstance(value, bool):
        from decimal import Decimal

        return str(Decimal(int(value)))
    if isinstance(value, str):
        _check_text(value, path)
    try:
        return _dumps(value)
    except TypeError:
        raise InvalidValueError(_unencodable(value, path)) from None


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValueError(f"{path} has a lone surrogate, which UTF-8 cannot carry") from None


def _unencodable(value: object, path: str) -> str:
    kind = qualified_name(type(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{path} is {kind}, which JSON cannot carry; only a top-level field can be bytes"
    return f"{path} is of type {kind}, which JSON cannot carry"


def qualified_name(cls: type) -> str:
    """A class's name as Python prints it: without a module if that is `builtins`."""
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def _field_name(key: object) -> str:
    name = _key(key)
    if not name.isascii():
        _check_text(name, f"the key {name!r}")
    return name


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    return _JSON_KEYS[key] if key is None or isinstance(key, bool) else str(key)


def _path(path: str, *keys: object) -> str:
    for key in keys:
        name = _key(key)
        path += f".{name}" if name.isidentifier() else f"[{name!r}]"
    return path


def _check_depth(value: object, path: str, depth: int) -> None:
    if isinstance(value, dict):
        items = list(value.values())
    elif isinstance(value, (list, tuple)):
        items = list(value)
    else:
        return
    if depth == 0:
        raise _too_deep(path)
    for item in items:
        _check_depth(item, path, depth - 1)


def _too_deep(path: str) -> InvalidValueError:
    path = path if len(path) < _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
    return InvalidValueError(f"{path} is nested deeper than {MAX_DEPTH} levels")
