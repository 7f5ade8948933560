"""The parameters of a function: checks and builds its keyword arguments, and describes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Optional

from snakepit_bridge._arguments.annotations import (
    UnsupportedError,
    builder_of,
    keywords_of,
    shown,
    signature_of,
    type_parameters,
)
from snakepit_bridge._arguments.builders import Builder, MismatchError
from snakepit_bridge._errors.call_error import ArgumentsError, CallError, Fault

PlainArguments = tuple[list[tuple[str, bool, Optional[frozenset[type]]]], bool]

_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_MISSING = object()
# The number of faults that an error lists.
_MAX_FAULTS = 20


class Parameters:
    """The parameters of `function`, which errors call `what` and `name`.

    Raises a `TypeError` if the function cannot be called with keywords, or if an annotation is not
    supported. `scope` is the class whose names annotations may use, and `context` the class of the
    parameter that receives the call's context, if there may be one. Without `shows_values` errors
    name wrong arguments without their values.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        what: str = "command",
        scope: Optional[type] = None,
        context: Optional[type] = None,
        shows_values: bool = True,
    ) -> None:
        self._shows_values = shows_values
        self._what = what
        self._name = name
        self._names = _globals(function)
        self._scope = scope
        self._context_type = context
        parameters = self._parameters(function)
        self.context = next((p.name for p in parameters if context and _takes(context, p)), None)
        self._arguments = [p for p in parameters if p.name != self.context]
        for parameter in self._arguments:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(
                    f"{what} {name!r}: {parameter.name!r} is positional-only, but a {what} "
                    "receives its arguments as keywords"
                )
        self.signature = f"{name}({', '.join(map(_shown, self._arguments))})"
        by_name = [p for p in self._arguments if p.kind in _KEYWORD]
        self._accepted = frozenset(p.name for p in by_name)
        self._required = frozenset(p.name for p in by_name if p.default is p.empty)
        self._builders: dict[str, Builder] = {}
        for parameter in by_name:
            builder = self._builder(parameter)
            if builder is not None:
                self._builders[parameter.name] = builder
        self._any = False
        self._rest: Optional[Builder] = None
        for parameter in self._arguments:
            if parameter.kind is parameter.VAR_KEYWORD:
                self._take_rest(parameter)

        self._checks = [(name, each.types, each) for name, each in self._builders.items()]

    def _parameters(self, function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
        """The parameters as far as one call is concerned."""
        return signature_of(function).parameters.values()

    def bind(
        self,
        args: dict[str, Any],
        context: object,
        checked: bool = True,  # noqa: FBT001, FBT002 (Rust passes it)
    ) -> dict[str, Any]:
        """Returns the keywords for the function: `args` themselves, built, and the context.

        If the types of arguments were guessed, they are not `checked`.
        """
        names = args.keys()
        if not (self._required <= names and (self._any or names <= self._accepted)):
            raise self._mismatch(args, checked=checked)
        for name, types, builder in self._checks:
            value = args.get(name, _MISSING)
            if type(value) in types or value is _MISSING:
                continue
            if checked or not builder.only_checks:
                try:
                    args[name] = builder.build(value)
                except MismatchError:
                    raise self._mismatch(args, checked=checked) from None
        if self._rest is not None:
            self._build_rest(args, checked=checked)
        if self.context is not None:
            if self.context in names:
                raise self._mismatch(args, checked=checked)
            args[self.context] = context
        return args

    @property
    def plain(self) -> Optional[PlainArguments]:
        """Each parameter: name, whether it is required, types; and whether others are taken.

        If all names of a call's arguments are among these or others are taken, no required one is
        missing, and the type of each value is one of the parameter's (None: of any), `bind` only
        adds the context. None if `bind` builds the others.
        """
        if self._rest is not None:
            return None
        types = {name: builder.types for name, builder in self._builders.items()}
        names = set(self._accepted)
        if self.context is not None:
            # No argument may have its name.
            names.add(self.context)
            types[self.context] = frozenset()
        parameters = [(name, name in self._required, types.get(name)) for name in sorted(names)]
        return parameters, self._any

    def describe(self) -> list[dict[str, Any]]:
        """Returns each parameter's name, type and default as text, and whether it is required."""
        return [
            {
                "name": _STARS.get(each.kind, "") + each.name,
                "type": None if each.annotation is each.empty else shown(each.annotation),
                "required": each.name in self._required,
                "default": None if each.default is each.empty else repr(each.default),
            }
            for each in self._arguments
        ]

    def _builder(self, parameter: inspect.Parameter) -> Optional[Builder]:
        default = parameter.default
        if type(default).__module__.startswith("pydantic.") and hasattr(default, "metadata"):
            raise TypeError(
                f"{self._what} {self._name!r}: the default of {parameter.name!r} is a pydantic "
                f"Field: write {parameter.name}: Annotated[{shown(parameter.annotation)}, "
                "Field(...)]"
            )
        try:
            return builder_of(parameter.annotation, default, self._names, self._scope)
        except UnsupportedError as error:
            raise self._unsupported(parameter, error) from None

    def _unsupported(self, parameter: inspect.Parameter, why: UnsupportedError) -> TypeError:
        return TypeError(
            f"{self._what} {self._name!r}: the parameter {parameter.name!r} is annotated with "
            f"{shown(parameter.annotation)}, {why}"
        )

    def _take_rest(self, parameter: inspect.Parameter) -> None:
        try:
            fields = keywords_of(parameter.annotation, self._names)
        except UnsupportedError as error:
            raise self._unsupported(parameter, error) from None
        if fields is None:
            self._any = True
            self._rest = self._builder(parameter)
            return
        self._accepted |= fields.fields.keys()
        self._required |= fields.required
        for name, builder in fields.fields.items():
            if builder is not None:
                self._builders[name] = builder

    def _build_rest(self, args: dict[str, Any], *, checked: bool) -> None:
        rest = self._rest
        assert rest is not None
        if not checked and rest.only_checks:
            return
        for name in args.keys() - self._accepted:
            if type(args[name]) not in rest.types:
                try:
                    args[name] = rest.build(args[name])
                except MismatchError:
                    raise self._mismatch(args, checked=checked) from None

    def _mismatch(self, args: dict[str, Any], *, checked: bool) -> CallError:
        missing = sorted(self._required - args.keys())
        allowed = args.keys() - {self.context} if self._any else self._accepted
        unknown = sorted(args.keys() - allowed)
        wrong = self._wrong(args, checked=checked)
        text = self._with_values if self._shows_values else self._without_values
        faults = [Fault((name,), "missing") for name in missing]
        faults += [Fault((name,), "unknown") for name in unknown]
        return ArgumentsError(text(missing, unknown, wrong), (faults + wrong)[:_MAX_FAULTS])

    def _with_values(self, missing: list[str], unknown: list[str], wrong: list[Fault]) -> str:
        # Faults of a whole argument go in the first line, those inside an argument below.
        whole = {fault.path[0]: fault.message for fault in wrong if len(fault.path) == 1}
        within = [fault for fault in wrong if len(fault.path) > 1]
        of_type = [f"{name} ({message})" for name, message in whole.items()]
        of_type += dict.fromkeys(
            str(fault.path[0]) for fault in within if fault.path[0] not in whole
        )
        lines = [self._line(missing, unknown, of_type)]
        lines += [f"  {fault.place}: {fault.message}" for fault in within[:_MAX_FAULTS]]
        if len(within) > _MAX_FAULTS:
            lines.append(f"  and {len(within) - _MAX_FAULTS} more")
        return "\n".join(lines)

    def _without_values(self, missing: list[str], unknown: list[str], wrong: list[Fault]) -> str:
        within = [fault.place for fault in wrong if fault.message == "missing"]
        of_type = [fault.place for fault in wrong if fault.message != "missing"]
        return self._line(missing + within, unknown, of_type)

    def _line(self, missing: list[str], unknown: list[str], of_type: list[str]) -> str:
        texts = [
            f"{what} {', '.join(names)}"
            for what, names in (
                ("missing", missing),
                ("unknown", list(map(self._unknown, unknown))),
                ("of the wrong type", of_type),
            )
            if names
        ]
        return f"{'; '.join(texts)}: the {self._what} is {self.signature}"

    def _wrong(self, args: dict[str, Any], *, checked: bool) -> list[Fault]:
        faults: list[Fault] = []
        for name, value in args.items():
            builder = self._builders.get(name)
            if builder is None and name not in self._accepted:
                builder = self._rest
            if builder is None or not (checked or not builder.only_checks):
                continue
            try:
                if type(value) not in builder.types:
                    builder.build(value)
            except MismatchError as error:
                faults += [Fault((name, *path), message) for path, message in error.faults]
            except Exception:
                # An exception of the type's own code is reported by a call that is otherwise valid.
                continue
        return sorted(faults, key=lambda fault: str(fault.path[0]))

    def _unknown(self, name: str) -> str:
        import difflib

        near = difflib.get_close_matches(name, self._accepted, 1)
        return f"{name} (did you mean {near[0]}?)" if near else name


_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_KEYWORD: "**",
    inspect.Parameter.VAR_POSITIONAL: "*",
}


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the names that annotations may use: those of the function's module."""
    # Calling a class calls its __init__.
    is_class = isinstance(function, type)
    called: Any = inspect.getattr_static(function, "__init__") if is_class else function
    called = inspect.unwrap(called)
    names: dict[str, Any] = getattr(called, "__globals__", {})
    parameters = type_parameters(called)
    return {**names, **parameters} if parameters else names


def _shown(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    text = str(parameter)
    return text.replace(repr(annotation), annotation, 1) if isinstance(annotation, str) else text


def _takes(context: type, parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        annotation = annotation.strip("'\"").rpartition(".")[2]
        return annotation == context.__name__ or parameter.name == "context"
    return annotation is context or parameter.name == "context"
