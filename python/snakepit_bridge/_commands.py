"""The commands of an adapter, found once and ready to be called."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Optional

from snakepit_bridge._adapter import MARK, Adapter
from snakepit_bridge._annotations import Check, check_of
from snakepit_bridge._context import Context
from snakepit_bridge._failure import CallError
from snakepit_bridge._invalid import qualified_name

_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Command:
    """A bound method with what is needed to check and to pass its arguments."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        async_generator = inspect.isasyncgenfunction(function)
        self.streams = async_generator or inspect.isgeneratorfunction(function)
        self.is_async = async_generator or inspect.iscoroutinefunction(function)
        self.doc = inspect.getdoc(function) or ""
        parameters = inspect.signature(function).parameters.values()
        self._context = next((p.name for p in parameters if _takes_context(p)), None)
        arguments = [p for p in parameters if p.name != self._context]
        for parameter in arguments:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(
                    f"command {name!r}: {parameter.name!r} is positional-only, but a command "
                    "gets its arguments as keywords"
                )
        by_name = [p for p in arguments if p.kind in _KEYWORD]
        self._any = any(p.kind is p.VAR_KEYWORD for p in arguments)
        self._accepted = frozenset(p.name for p in by_name)
        self._required = frozenset(p.name for p in by_name if p.default is p.empty)
        self._annotations = {p.name: _annotation(p) for p in by_name}
        self._checks = _checks(function, by_name)
        self.signature = f"{name}({', '.join(map(_shown, arguments))})"

    @property
    def takes_context(self) -> bool:
        return self._context is not None

    @property
    def help(self) -> str:
        """The signature, marked if it is a stream's, and the docstring."""
        line = f"{self.signature} -> stream" if self.streams else self.signature
        return f"{line}\n\n{self.doc}" if self.doc else line

    def bind(
        self,
        args: dict[str, Any],
        context: Optional[Context],
        checked: bool = True,  # noqa: FBT001, FBT002 (Rust passes it)
    ) -> dict[str, Any]:
        """The keywords to call the function with: `args` themselves, checked, and the context.

        Types are not `checked` where they were guessed.
        """
        names = args.keys()
        if not (self._required <= names and (self._any or names <= self._accepted)):
            raise CallError("invalid_args", self._misfit(args))
        if checked:
            for name in self._checks.keys() & names:
                check, value = self._checks[name], args[name]
                if type(value) in check.types:
                    continue
                if not check.accepts(value):
                    raise CallError("invalid_args", self._misfit(args))
                args[name] = check.convert(value)
        if self._context is not None:
            if self._context in names:
                raise CallError("invalid_args", self._misfit(args))
            args[self._context] = context
        return args

    def _misfit(self, args: Mapping[str, Any]) -> str:
        missing = sorted(self._required - args.keys())
        allowed = args.keys() - {self._context} if self._any else self._accepted
        unknown = sorted(args.keys() - allowed)
        wrong = sorted(
            name
            for name, check in self._checks.items()
            if name in args and not check.accepts(args[name])
        )
        faults = [
            f"{what} {', '.join(map(show, names))}"
            for what, names, show in (
                ("missing", missing, str),
                ("unknown", unknown, self._unknown),
                ("of the wrong type", wrong, lambda name: self._wrong(name, args[name])),
            )
            if names
        ]
        return f"{'; '.join(faults)}: the command is {self.signature}"

    def _unknown(self, name: str) -> str:
        import difflib

        near = difflib.get_close_matches(name, self._accepted, 1)
        return f"{name} (did you mean {near[0]}?)" if near else name

    def _wrong(self, name: str, value: object) -> str:
        shown = reprlib.repr(value)
        return (
            f"{name} (wants {self._annotations[name]}, got {qualified_name(type(value))} {shown})"
        )


def _checks(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> dict[str, Check]:
    names = getattr(inspect.unwrap(function), "__globals__", {})
    checks = {p.name: check_of(p.annotation, p.default, names) for p in parameters}
    return {name: check for name, check in checks.items() if check is not None}


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _shown(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    text = str(parameter)
    return text.replace(repr(annotation), annotation, 1) if isinstance(annotation, str) else text


def _takes_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        annotation = annotation.strip("'\"").rpartition(".")[2]
        return annotation == Context.__name__ or parameter.name == "context"
    return annotation is Context or parameter.name == "context"


class Registry(Mapping[str, Command]):
    """Every command of one adapter, by name."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self._commands: dict[str, Command] = {}
        for attribute, given in sorted(_marked(type(adapter)).items()):
            name = given or attribute
            if name in self._commands:
                raise TypeError(f"two commands of {type(adapter).__name__} are named {name!r}")
            self._commands[name] = Command(name, getattr(adapter, attribute))

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
            f"GetInfo lists all {len(self)} of them"
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
