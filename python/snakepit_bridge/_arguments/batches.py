"""The parameters of a function that takes batches: each is a list with one item for each call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Optional

from snakepit_bridge._arguments.annotations import (
    UnsupportedError,
    builder_of,
    item_of,
    shown,
)
from snakepit_bridge._arguments.builders import Fields, MaybeBuilder, MismatchError
from snakepit_bridge._arguments.parameters import Parameters, PlainArguments
from snakepit_bridge._errors.call_error import ArgumentsError


class BatchParameters(Parameters):
    """Checks and builds the arguments of each call, and makes the function's keywords of them.

    A single parameter is the list of the calls' arguments. Each of several is the list of the
    calls' arguments of its name. `bind` returns the items of one call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        scope: Optional[type] = None,
        context: Optional[type] = None,
    ) -> None:
        self._given: list[inspect.Parameter] = []
        #: The single parameter, and the builder of its items.
        self._whole: Optional[str] = None
        self._whole_builder: MaybeBuilder = None
        super().__init__(function, name, scope=scope, context=context)
        fields = self._fields()
        if fields is not None:
            self.signature = f"{name}({', '.join(map(_field_shown, fields))})"

    def bind(
        self,
        args: dict[str, Any],
        context: object,
        checked: bool = True,  # noqa: FBT001, FBT002 (Rust passes it)
    ) -> dict[str, Any]:
        """Returns the items of one call, by the names of the function's parameters."""
        if self._whole is None:
            return super().bind(args, context, checked)
        items = {self._whole: self._whole_item(args, checked=checked)}
        if self.context is not None:
            items[self.context] = context
        return items

    @property
    def plain(self) -> Optional[PlainArguments]:
        return super().plain if self._whole is None else None

    def gather(self, calls: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """Returns the keywords of the function from the items of each call."""
        return {
            each.name: [items.get(each.name, each.default) for items in calls]
            for each in self._given
        }

    def describe(self) -> list[dict[str, Any]]:
        fields = self._fields()
        return super().describe() if fields is None else fields

    def _whole_item(self, args: dict[str, Any], *, checked: bool) -> Any:
        builder = self._whole_builder
        if builder is None or type(args) in builder.types:
            return args
        if not checked and builder.only_checks:
            return args
        try:
            return builder.build(args)
        except MismatchError as error:
            texts = [
                f"{fault.place}: {fault.message}" if fault.path else fault.message
                for fault in error.faults
            ]
            message = f"{'; '.join(texts)}: the command is {self.signature}"
            raise ArgumentsError(message, error.faults) from None

    def _parameters(self, function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
        self._given = list(super()._parameters(function))
        items = list(map(self._item, self._given))
        arguments = [each for each in items if each.annotation is not self._context_type]
        if not arguments:
            raise TypeError(
                f"command {self._name!r} takes batches: it needs a parameter for the arguments of "
                "its calls"
            )
        if len(arguments) > 1:
            return items
        (single,) = arguments
        self._take_whole(single)
        whole = single.replace(
            kind=single.VAR_KEYWORD, annotation=single.empty, default=single.empty
        )
        return [each for each in items if each is not single] + [whole]

    def _take_whole(self, single: inspect.Parameter) -> None:
        self._whole = single.name
        try:
            builder = builder_of(single.annotation, single.empty, self._names, self._scope)
        except UnsupportedError as error:
            raise self._unsupported(single, error) from None
        if not _takes_dict(builder):
            raise TypeError(
                f"command {self._name!r} takes batches in the parameter {single.name!r}: a single "
                "parameter is the list of the calls' arguments, each a dict, which cannot be "
                f"converted to {shown(single.annotation)}: annotate it with list[dict[str, Any]], "
                "or with a list of a dataclass or a TypedDict that has the arguments as fields"
            )
        self._whole_builder = builder

    def _item(self, parameter: inspect.Parameter) -> inspect.Parameter:
        """The parameter as one call sees it: an item instead of a list."""
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"command {self._name!r} takes batches and cannot take {parameter}: name its "
                "parameters, or take the list of the calls' arguments in a single one"
            )
        if self._takes_contexts(parameter):
            return parameter.replace(annotation=self._context_type, default=parameter.empty)
        try:
            annotation = item_of(parameter.annotation, self._names, self._scope)
        except UnsupportedError as error:
            raise self._unsupported(parameter, error) from None
        if annotation is self._context_type is not None:
            return parameter.replace(annotation=annotation, default=parameter.empty)
        return parameter.replace(annotation=annotation)

    def _takes_contexts(self, parameter: inspect.Parameter) -> bool:
        name = getattr(self._context_type, "__name__", "")
        text = shown(parameter.annotation).strip("'\"").rstrip("]").rpartition(".")[2]
        alone = text.rpartition("[")[2] == name and "[" not in shown(parameter.annotation)
        if alone:
            raise TypeError(
                f"command {self._name!r} takes batches: it gets the contexts of all calls of a "
                f"batch: annotate {parameter.name!r} with list[{name}]"
            )
        return parameter.name == "context" or text.rpartition("[")[2] == name

    def _fields(self) -> Optional[list[dict[str, Any]]]:
        """The fields of a single parameter's items, which callers pass as arguments."""
        fields = self._whole_builder
        if not isinstance(fields, Fields):
            return None
        return [
            {
                "name": name,
                "type": None if builder is None else builder.expected,
                "required": name in fields.required,
                "default": None,
            }
            for name, builder in fields.fields.items()
        ]


def _field_shown(field: dict[str, Any]) -> str:
    text = field["name"] if field["type"] is None else f"{field['name']}: {field['type']}"
    return text if field["required"] else f"{text} = ..."


def _takes_dict(builder: MaybeBuilder) -> bool:
    """Whether the arguments of some call could be converted: an empty dict is of the right type."""
    if builder is None or dict in builder.types:
        return True
    try:
        builder.build({})
    except MismatchError as error:
        return not error.is_type
    except Exception:
        # The type's own code may refuse what is no call's arguments.
        return True
    return True
