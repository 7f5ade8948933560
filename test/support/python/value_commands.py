"""Commands that report how values arrived, and that return values of every kind."""

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
from collections.abc import Callable
from typing import Any, NamedTuple

from snakepit_bridge import BuiltinAdapter, arrow, command, register_encoder


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
    """A dict whose items() differ from its content."""

    def items(self) -> Any:
        return [(key.upper(), value) for key, value in super().items()]


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


class Opaque:
    pass


register_encoder(Money, lambda money: {"amount": money.amount})


class _Names(dict[str, Any]):
    """The names in an expression; packages are imported only on use."""

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


def _column(dtype: str) -> Callable[[list[Any]], Any]:
    """A pandas column of a type, with an index that is sent."""

    def column(items: list[Any]) -> Any:
        import pandas as pd

        return pd.DataFrame({"x": pd.array(items, dtype)}, pd.Index(range(len(items)), name="row"))

    return column


def _masked(items: list[Any]) -> Any:
    import numpy as np

    numbers = np.array([item or 0 for item in items], "int64")
    return np.ma.masked_array(numbers, [item is None for item in items])


def _objects(items: list[Any]) -> Any:
    import numpy as np

    return np.array([*items, None], object)[:-1]


def _polars(items: list[Any]) -> Any:
    import polars as pl

    return pl.Series(items)


def _arrow(items: list[Any]) -> Any:
    import pyarrow as pa

    return pa.array(items)


#: How to turn a list with None for missing values into a value that arrives as that list, or in a
#: frame.
_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "deque": collections.deque,
    "UserList": collections.UserList,
    "values": lambda items: dict(enumerate(items)).values(),
    "objects": _objects,
    "masked": _masked,
    "polars": _polars,
    "arrow": _arrow,
    "Categorical": lambda items: importlib.import_module("pandas").Categorical(items),
    "Index": lambda items: importlib.import_module("pandas").Index(items, dtype=object),
    "Int64 frame": _column("Int64"),
    "string frame": _column("string"),
}
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


def _reader(rows: int, batch: int) -> Any:
    import pyarrow as pa

    return pa.table({"n": range(rows)}).to_reader(max_chunksize=batch)


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
    def made(self, kinds: list[str], items: list[list[Any]]) -> dict[str, Any]:
        """Values of these kinds with these items, at the top and nested."""
        values = [_MAKERS[kind](given) for kind, given in zip(kinds, items)]
        return {**{str(n): value for n, value in enumerate(values)}, "nested": [values]}

    @command
    def describe(self, value: Any) -> str:
        return shown(value)

    @command
    def same_table(self, value: Any, nested: Any, code: str) -> dict[str, bool]:
        wanted = evaluated(code)

        def same(table: Any) -> bool:
            # Equal including their NaNs, which are equal as text.
            return bool(table.schema.equals(wanted.schema)) and (
                table.combine_chunks().to_pylist().__repr__() == wanted.to_pylist().__repr__()
            )

        buffers = [
            buffer
            for column in value.columns
            for chunk in column.chunks
            for buffer in chunk.buffers()
            if buffer is not None and buffer.size
        ]
        return {
            "same": same(value),
            "nested": same(nested[0]["x"]) and nested[1] == "after",
            # None of it is memory that pyarrow has allocated: all are slices of the message.
            "over_the_message": all(buffer.parent is not None for buffer in buffers),
        }

    @command
    def stream_batches(self, rows: int, batch: int) -> Any:
        for one in _reader(rows, batch):
            yield {"batch": arrow(one)}

    @command
    async def stream_batches_async(self, rows: int, batch: int) -> Any:
        for one in _reader(rows, batch):
            yield {"batch": arrow(one)}

    @command
    def view(self, data: memoryview) -> dict[str, Any]:
        return {"type": type(data).__name__, "half": data[: len(data) // 2]}

    @command
    def stream_values(self, code: str) -> Any:
        yield {"value": evaluated(code)}
        return {"value": evaluated(code)}
