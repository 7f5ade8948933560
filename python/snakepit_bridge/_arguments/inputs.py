"""Builds input streams: their items are checked and converted as arguments are."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from snakepit_bridge._arguments.builders import Builder, ListOf, MaybeBuilder, MismatchError
from snakepit_bridge._errors.call_error import ArgumentsError, CallError, Fault
from snakepit_bridge._two_way.inputs import Input, ListSource


class InputOf(Builder):
    """Passes an input stream, and has its items built. A list will do in its place."""

    def __init__(self, expected: str, item: MaybeBuilder) -> None:
        super().__init__(expected)
        self._item = item
        self._list = ListOf(expected, item)

    def build(self, value: Any) -> Any:
        if type(value) is list:
            return Input("list", ListSource(self._list.build(value)))
        if type(value) is not Input:
            raise self.mismatch(value)
        return value if self._item is None else value.prepared(self._prepared)

    def _prepared(self, name: str, first: int, items: list[Any]) -> Iterator[Any]:
        builder = self._item
        if builder is None or builder.types.issuperset(map(type, items)):
            return iter(items)
        # A generator would end with the first item that is refused.
        build = functools.partial(_built, builder, name)
        return map(build, range(first, first + len(items)), items)


def _built(builder: Builder, name: str, number: int, item: Any) -> Any:
    if type(item) in builder.types:
        return item
    try:
        return builder.build(item)
    except MismatchError as error:
        faults = [Fault((name, number, *path), text) for path, text in error.faults]
        lines = "; ".join(f"{fault.place}: {fault.message}" for fault in faults)
        raise ArgumentsError(f"an item has the wrong type: {lines}", faults) from None


def no_inputs(name: str) -> CallError:
    """The error of an input stream for a command that takes batches."""
    text = "is an input stream, but the command takes batches: send a list in its place"
    return ArgumentsError(f"{name} {text}", [Fault((name,), text)])
