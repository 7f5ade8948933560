"""Builders for types of the standard library that are sent as text or as numbers.

No module is imported here: an annotation that names a class has imported its module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Optional

from snakepit_bridge._arguments.builders import Builder, Frame, Instance, Scalar
from snakepit_bridge._values.tagged import ANNOTATIONS

_FRACTION = re.compile(r"[.,](\d+)")


def _pandas_frame(table: Any) -> object:
    return table.to_pandas()


def _polars_frame(table: Any) -> object:
    return sys.modules["polars"].from_arrow(table)


_FRAMES = {"pandas.DataFrame": _pandas_frame, "polars.DataFrame": _polars_frame}


def scalar(cls: type, expected: str) -> Optional[Builder]:
    """Returns the builder for a class of the standard library, or one that arguments arrive as."""
    name = f"{cls.__module__.partition('.')[0]}.{cls.__name__}"
    if name in ANNOTATIONS:
        return Instance(expected, cls)
    if name in _FRAMES:
        return Frame(expected, cls, _FRAMES[name])
    known = _KNOWN.get(name)
    if known is None and cls.__module__ == "ipaddress":
        known = (str,), _call
    if known is None:
        return None
    sent_as, read = known
    return Scalar(expected, cls, sent_as, lambda value: read(cls, value))


def _call(cls: Any, value: Any) -> object:
    return cls(value)


def _exact(cls: Any, value: Any) -> object:
    # 0.1 means the decimal number, not the binary fraction that is nearest to it.
    return cls(repr(value) if type(value) is float else value)


def _date_and_time(cls: Any, text: str) -> object:
    if sys.version_info < (3, 11):
        # Later versions accept a Z, and a fraction of any length.
        text = re.sub("[zZ]$", "+00:00", text)
        text = _FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", text)
    return cls.fromisoformat(text)


def _date(cls: Any, text: str) -> object:
    return cls.fromisoformat(text)


def _duration(cls: Any, seconds: Any) -> object:
    return cls(seconds=seconds)


def _path_like(_cls: Any, text: str) -> object:
    from pathlib import Path

    return Path(text)


_KNOWN: dict[str, tuple[tuple[type, ...], Callable[[Any, Any], object]]] = {
    "builtins.bytearray": ((bytes, str), lambda cls, value: cls(
        value.encode() if type(value) is str else value
    )),
    "datetime.datetime": ((str,), _date_and_time),
    "datetime.date": ((str,), _date),
    "datetime.time": ((str,), _date_and_time),
    "datetime.timedelta": ((int, float), _duration),
    "decimal.Decimal": ((str, int, float), _exact),
    "fractions.Fraction": ((str, int, float), _exact),
    "os.PathLike": ((str,), _path_like),
    "pathlib.Path": ((str,), _call),
    "pathlib.PosixPath": ((str,), _call),
    "pathlib.PurePath": ((str,), _call),
    "pathlib.PurePosixPath": ((str,), _call),
    "uuid.UUID": ((str,), _call),
    "zoneinfo.ZoneInfo": ((str,), _call),
}  # fmt: skip
