"""The commands of an adapter, collected once and ready to be called."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Optional

from snakepit_bridge._arguments.batches import BatchParameters
from snakepit_bridge._arguments.batching import Batching, check_function, results_of
from snakepit_bridge._arguments.parameters import Parameters
from snakepit_bridge._commands.adapter import COMMAND_ATTRIBUTE, Adapter, Mark
from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.hooks import Hooks
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._types.names import qualified_name

#: How much of a name is repeated that no command has.
_MAX_NAME = 200


class Command:
    """A bound method, and how to check and pass its arguments."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        scope: Optional[type] = None,
        batching: Optional[Batching] = None,
    ) -> None:
        self.name = name
        self.function = function
        async_generator = inspect.isasyncgenfunction(function)
        self.streams = async_generator or inspect.isgeneratorfunction(function)
        self.is_async = async_generator or inspect.iscoroutinefunction(function)
        self.doc = inspect.getdoc(function) or ""
        #: How its calls gather, if they do. Then `bind` makes one item of a batch.
        self.batching = batching
        make = Parameters if batching is None else BatchParameters
        self._parameters = make(function, name, scope=scope, context=Context)
        self.signature = self._parameters.signature
        #: Converts arguments and a context to keywords for `function`: `Parameters.bind`.
        self.bind = self._parameters.bind
        #: The arguments for which `bind` has nothing to do: `Parameters.plain`.
        self.plain = self._parameters.plain
        #: The name of the parameter that receives the context; None if there is none.
        self.context = self._parameters.context

    @property
    def help(self) -> str:
        """The signature, with `-> stream` for a stream, and the docstring."""
        line = f"{self.signature} -> stream" if self.streams else self.signature
        return f"{line}\n\n{self.doc}" if self.doc else line

    def gather(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the keywords for `function` from what `bind` has returned for each call."""
        assert isinstance(self._parameters, BatchParameters)
        return self._parameters.gather(items)

    def results(self, value: object, count: int) -> list[Any]:
        """Returns the results in what `function` has returned; raises a `CallError`."""
        return results_of(value, count, self.name)

    def describe(self) -> dict[str, Any]:
        """Returns the fields of `CommandInfo` in `proto/snakepit.proto`."""
        return {
            "name": self.name,
            "signature": self.signature,
            "doc": self.doc,
            "streams": self.streams,
            "is_async": self.is_async,
            "parameters": self._parameters.describe(),
            "batch": None if self.batching is None else self.batching._asdict(),
        }


class Registry(Mapping[str, Command]):
    """Every command of one adapter, by name."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.hooks = Hooks(adapter)
        self._commands: dict[str, Command] = {}
        for attribute, mark in sorted(_commands_of(type(adapter)).items()):
            name = mark.name or attribute
            if name in self._commands:
                raise TypeError(f"two commands of {type(adapter).__name__} are named {name!r}")
            method = getattr(adapter, attribute)
            _check_self(type(adapter), attribute, method)
            if mark.batching is not None:
                check_function(method, f"{type(adapter).__qualname__}.{attribute}")
            self._commands[name] = Command(name, method, type(adapter), mark.batching)

    def __getitem__(self, name: str) -> Command:
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)

    def batch_sizes(self) -> dict[str, int]:
        """Returns the commands whose calls gather, and how many calls a batch has at most."""
        return {
            name: command.batching.size
            for name, command in self._commands.items()
            if command.batching is not None
        }

    @property
    def batch_size(self) -> int:
        """How many calls the largest batch may have; 1 if no calls gather."""
        return max(self.batch_sizes().values(), default=1)

    def find(self, name: str, *, stream: bool) -> Command:
        """Returns the command with that name; raises a `CallError` if there is none."""
        command = self._commands.get(name)
        if command is None:
            raise CallError("unknown_command", self._unknown(name))
        if command.streams and not stream:
            raise CallError.of_stream(name)
        return command

    def _unknown(self, name: str) -> str:
        import difflib

        name = name[:_MAX_NAME]
        near = difflib.get_close_matches(name, self._commands)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
        return (
            f"the adapter {type(self.adapter).__name__} has no command {name!r}{hint} "
            f"Snakepit.commands/1 lists all {len(self)} of them"
        )


def _commands_of(cls: type) -> dict[str, Mark]:
    """Returns the attributes that are commands. An override stays one, and None removes one."""
    marks: dict[str, Mark] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            mark = _mark_of(value)
            if mark is not None:
                marks[attribute] = mark
            elif value is None:
                marks.pop(attribute, None)
            elif attribute not in marks and _hides_command(attribute, value):
                raise TypeError(
                    f"{base.__qualname__}.{attribute}{_place(value)} is not a command: a decorator "
                    f"above its @command hides it behind a {qualified_name(type(value))}; put "
                    "@command above all other decorators"
                )
    return marks


def _mark_of(value: object) -> Optional[Mark]:
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    mark: Optional[Mark] = getattr(value, COMMAND_ATTRIBUTE, None)
    return mark


def _hides_command(name: str, value: Any) -> bool:
    """Whether an attribute wraps a command of the same name, as a plain decorator does."""
    inner = [getattr(value, at, None) for at in ("__wrapped__", "__func__", "func", "fget")]
    for cell in getattr(value, "__closure__", None) or ():
        with contextlib.suppress(ValueError):
            inner.append(cell.cell_contents)
    return any(
        inspect.isfunction(one) and one.__name__ == name and hasattr(one, COMMAND_ATTRIBUTE)
        for one in inner
    )


def _check_self(cls: type, attribute: str, method: Any) -> None:
    code = getattr(getattr(method, "__func__", None), "__code__", None)
    if code is None or isinstance(vars(cls).get(attribute), classmethod):
        return
    first = code.co_varnames[: code.co_argcount][:1]
    if first == ("context",) or not (first or code.co_flags & inspect.CO_VARARGS):
        raise TypeError(
            f"{cls.__qualname__}.{attribute}{_place(method)} has no parameter for its object: add "
            "`self` as the first parameter, or put @staticmethod below @command"
        )


def _place(value: Any) -> str:
    code = getattr(inspect.unwrap(getattr(value, "__func__", value)), "__code__", None)
    return "" if code is None else f" ({code.co_filename}:{code.co_firstlineno})"
