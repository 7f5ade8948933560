"""Commands that tell how values arrived, and that return values of every kind."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import importlib
import pathlib
import pprint
import uuid
from typing import Any, NamedTuple

from snakepit_bridge import BuiltinAdapter, command, register_encoder


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Level(int, enum.Enum):
    HIGH = 3


class Pair(NamedTuple):
    left: int
    right: int


class Upper(dict[str, Any]):
    """A dict whose items are not what it holds."""

    def items(self) -> Any:
        return [(key.upper(), value) for key, value in super().items()]


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


class Opaque:
    pass


register_encoder(Money, lambda money: {"amount": money.amount})


class _Names(dict[str, Any]):
    """What is named in an expression; packages are imported only then."""

    def __missing__(self, name: str) -> Any:
        if name in _MADE:
            return _MADE[name]()
        if hasattr(builtins, name):
            raise KeyError(name)
        return importlib.import_module(name)


def _user_model() -> Any:
    import pydantic

    return pydantic.create_model("User", name=(str, ...), tags=(set, ...))


def _site_model() -> Any:
    import pydantic

    return pydantic.create_model("Site", url=(pydantic.HttpUrl, ...), key=(pydantic.SecretStr, ...))


def _attrs_class() -> Any:
    import attrs

    return attrs.make_class("Shape", ["sides"])


def _struct() -> Any:
    import msgspec

    return msgspec.defstruct("Event", ["at"])


_MADE = {"User": _user_model, "Site": _site_model, "Shape": _attrs_class, "Event": _struct}
_NAMES = [
    *(collections, dt, decimal, pathlib, uuid),
    *(Color, Level, Pair, Upper, Point, Money, Opaque),
]


def evaluated(code: str) -> Any:
    return eval(code, {}, _Names({thing.__name__: thing for thing in _NAMES}))


def shown(value: Any) -> str:
    """With its type, and dicts in the order of their keys."""
    return f"{type(value).__name__} {pprint.pformat(value, width=1000)}"


class ValueCommands(BuiltinAdapter):
    @command
    def arrives_as(self, value: Any, code: str) -> dict[str, Any]:
        return {"arrived": shown(value), "wanted": shown(evaluated(code)), "value": value}

    @command
    def evaluate(self, code: str) -> Any:
        return evaluated(code)

    @command
    async def evaluate_async(self, code: str) -> Any:
        return evaluated(code)

    @command
    def describe(self, value: Any) -> str:
        return shown(value)

    @command
    def view(self, data: memoryview) -> dict[str, Any]:
        return {"type": type(data).__name__, "half": data[: len(data) // 2]}

    @command
    def stream_values(self, code: str) -> Any:
        yield {"value": evaluated(code)}
        return {"value": evaluated(code)}
