"""The commands of an adapter, found once and ready to be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Optional

from snakepit_bridge._adapter import MARK, Adapter
from snakepit_bridge._failure import CallError
from snakepit_bridge._parameters import Parameters


class Command:
    """A bound method with what is needed to check and to pass its arguments."""

    def __init__(
        self, name: str, function: Callable[..., Any], scope: Optional[type] = None
    ) -> None:
        self.name = name
        self.function = function
        async_generator = inspect.isasyncgenfunction(function)
        self.streams = async_generator or inspect.isgeneratorfunction(function)
        self.is_async = async_generator or inspect.iscoroutinefunction(function)
        self.doc = inspect.getdoc(function) or ""
        self._parameters = Parameters(function, name, scope=scope)
        self.signature = self._parameters.signature
        #: Makes keywords for `function` of arguments and a context, as `Parameters.bind` says.
        self.bind = self._parameters.bind

    @property
    def takes_context(self) -> bool:
        return self._parameters.context is not None

    @property
    def help(self) -> str:
        """The signature, marked if it is a stream's, and the docstring."""
        line = f"{self.signature} -> stream" if self.streams else self.signature
        return f"{line}\n\n{self.doc}" if self.doc else line

    def describe(self) -> dict[str, Any]:
        """What callers may know of it: the fields of `CommandInfo` in `proto/snakepit.proto`."""
        return {
            "name": self.name,
            "signature": self.signature,
            "doc": self.doc,
            "streams": self.streams,
            "is_async": self.is_async,
            "parameters": self._parameters.describe(),
        }


class Registry(Mapping[str, Command]):
    """Every command of one adapter, by name."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self._commands: dict[str, Command] = {}
        for attribute, given in sorted(_marked(type(adapter)).items()):
            name = given or attribute
            if name in self._commands:
                raise TypeError(f"two commands of {type(adapter).__name__} are named {name!r}")
            self._commands[name] = Command(name, getattr(adapter, attribute), type(adapter))

    def __getitem__(self, name: str) -> Command:
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)

    def find(self, name: str, *, stream: bool) -> Command:
        """The command to serve a call with, or the `CallError` that says why there is none."""
        command = self._commands.get(name)
        if command is None:
            raise CallError("unknown_command", self._unknown(name))
        if command.streams and not stream:
            raise CallError(
                "invalid_args",
                f"{name!r} yields a stream of results: call it with execute_stream, not execute",
            )
        return command

    def _unknown(self, name: str) -> str:
        import difflib

        near = difflib.get_close_matches(name, self._commands)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
        return (
            f"the adapter {type(self.adapter).__name__} has no command {name!r}{hint} "
            f"Snakepit.commands/1 lists all {len(self)} of them"
        )


def _marked(cls: type) -> dict[str, str]:
    """The attributes that are commands. An override stays one, and None takes one away."""
    names: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            mark: Optional[str] = getattr(value, MARK, None)
            if mark is not None:
                names[attribute] = mark
            elif value is None:
                names.pop(attribute, None)
    return names
