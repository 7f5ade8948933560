"""Strict and exact JSON of bounded depth."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, Optional

from snakepit_bridge._types.invalid import MAX_DEPTH, too_deep
from snakepit_bridge._types.snapshot import snapshot

#: The classes whose values, and those of their subclasses, the encoder writes itself.
JSON_CLASSES = (str, int, float, list, tuple, dict, type(None))
#: The time to convert an integer grows with the square of its length.
MAX_DIGITS = 100_000

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = [1 if byte in b"[{" else -1 for byte in range(256)]
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def exact_int(digits: str) -> int:
    """Parses an integer of any size; `int` refuses more than 4300 digits by default."""
    from decimal import Decimal

    if len(digits) > MAX_DIGITS + 1:
        raise ValueError(f"an integer has more than {MAX_DIGITS} digits")
    return int(Decimal(digits))


_loads = json.JSONDecoder(parse_constant=_refuse_constant).decode
_exact_loads = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=exact_int).decode


def _encoder(default: Callable[[Any], object], *, allow_nan: bool) -> Callable[[Any], str]:
    return json.JSONEncoder(
        ensure_ascii=False,
        allow_nan=allow_nan,
        check_circular=False,
        separators=(",", ":"),
        default=default,
    ).encode


# `[].clear` takes no argument: it raises a TypeError for any value, and runs no Python code.
_refuse: Any = [].clear
_PLAIN = {allow_nan: _encoder(_refuse, allow_nan=allow_nan) for allow_nan in (False, True)}


class JsonEncoder:
    """Encodes values as JSON; `default` replaces other types."""

    def __init__(self, default: Callable[[Any], object], *, allow_nan: bool) -> None:
        self._default = default
        self._allow_nan = allow_nan
        self._plain = _PLAIN[allow_nan]
        self._full: Optional[Callable[[Any], str]] = None

    def encode(self, value: Any) -> str:
        if not isinstance(value, JSON_CLASSES):
            value = self._default(value)
        # Nothing can change the value while no Python code runs. The encoder in C iterates over
        # dicts that `default` must not change.
        try:
            return self._plain(value)
        except TypeError:
            if self._full is None:
                default = self._default
                self._full = _encoder(
                    lambda value: snapshot(default(value)), allow_nan=self._allow_nan
                )
            return self._full(snapshot(value))


def read(text: str, name: str) -> Any:
    """Parses a JSON text. Raises a `ValueError` if it is not valid."""
    try:
        value = _loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        value = _exact_loads(text)
    except RecursionError:
        raise too_deep(name) from None
    return value


def is_too_deep(data: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether more brackets than `limit` are open at once."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    # Usually no string contains a bracket; then no strings have to be removed.
    return _depth(data) > limit and _depth(_STRING.sub(b"", data)) > limit


def _depth(data: bytes) -> int:
    brackets = data.translate(None, _NOT_BRACKETS)
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0)
