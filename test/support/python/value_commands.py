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
from typing import Any

from snakepit_bridge import BuiltinAdapter, command, register_encoder


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


class Opaque:
    pass


register_encoder(Money, lambda money: {"amount": money.amount})


class _Names(dict[str, Any]):
    """What is named in an expression; packages are imported only then."""

    def __missing__(self, name: str) -> Any:
        if name == "User":
            return _user_model()
        if hasattr(builtins, name):
            raise KeyError(name)
        return importlib.import_module(name)


def _user_model() -> Any:
    import pydantic

    return pydantic.create_model("User", name=(str, ...), tags=(set, ...))


_NAMES = [collections, dt, decimal, pathlib, uuid, Color, Point, Money, Opaque]


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
    def describe(self, value: Any) -> str:
        return shown(value)

    @command
    def view(self, data: memoryview) -> dict[str, Any]:
        return {"type": type(data).__name__, "half": data[: len(data) // 2]}

    @command
    def stream_values(self, code: str) -> Any:
        yield {"value": evaluated(code)}
        return {"value": evaluated(code)}
