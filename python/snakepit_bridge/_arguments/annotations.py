"""Finds the builder for the annotation of a parameter.

The bridge builds the standard library's types itself, and strictly: "1" is not an `int`. Pydantic
builds its own types and those annotated with its constraints. So a command behaves the same
whether pydantic is installed or not; without it, an annotation that needs it is refused.
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Optional, Union, get_args, get_origin

from snakepit_bridge._arguments import pydantic_builders
from snakepit_bridge._arguments.builders import (
    Array,
    Builder,
    Chained,
    Deferred,
    Fields,
    ListOf,
    MapOf,
    MaybeBuilder,
    Member,
    OneOf,
    Plain,
    TupleOf,
    key_reader,
    or_none,
    plain_union,
)
from snakepit_bridge._arguments.inputs import InputOf
from snakepit_bridge._arguments.scalars import scalar
from snakepit_bridge._two_way.inputs import Input

_NONE = type(None)
_PLAIN: dict[object, tuple[type, ...]] = {
    None: (_NONE,),
    _NONE: (_NONE,),
    str: (str,),
    int: (int,),
    float: (float, int),
    bool: (bool,),
    bytes: (bytes,),
    memoryview: (memoryview,),
}
_UNIONS = (Union, getattr(types, "UnionType", Union))
_LISTS = {
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
}
_MADE_OF_LISTS: dict[object, type] = {
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
    collections.deque: collections.deque,
}
_MAPS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
_TEXT = (str, typing.ForwardRef)
_NO_TYPE = (
    "to which no argument can be converted: annotate it with a type that arrives "
    "(guides/values.md lists them), with a dataclass, or with Any to receive it unchanged"
)
_ENDLESS = "which contains itself with ever new types"
# The length of the longest annotation.
_LONGEST = 100_000
# What stands for the variables of a generic class.
_Variables = Mapping[object, object]
_FORWARD_REF = re.compile(r"ForwardRef\(('[^']*')[^()]*\)")
# Forms that qualify a field or a parameter, not its values.
_QUALIFIERS = ("Required", "NotRequired", "ReadOnly", "Final")


class UnsupportedError(Exception):
    """An annotation that is not supported; the message continues after its text."""


def builder_of(
    annotation: object, default: object, names: Mapping[str, Any], scope: Optional[type] = None
) -> MaybeBuilder:
    """Returns the builder for an annotation, or None if any value may pass.

    `names` are those of the module; the names of the class `scope` are used if it has none.
    Raises an `UnsupportedError`.
    """
    builder = Annotations(names, scope).whole(annotation)
    if builder is not None:
        builder.expected = shown(annotation)
    return or_none(builder) if builder is not None and default is None else builder


def keywords_of(annotation: object, names: Mapping[str, Any]) -> Optional[Fields]:
    """Returns the parameters for which `**options: Unpack[Options]` stands."""
    found = Annotations(names)
    annotation = found.resolved(annotation)
    if _name(get_origin(annotation)) != "Unpack":
        return None
    builder = found.whole(get_args(annotation)[0])
    return builder if isinstance(builder, Fields) else None


def item_of(annotation: object, names: Mapping[str, Any], scope: Optional[type] = None) -> object:
    """Returns the annotation of the items of a list. Raises an `UnsupportedError`."""
    resolved = Annotations(names, scope).resolved(annotation)
    if resolved is Any or resolved is object or resolved is inspect.Parameter.empty:
        return inspect.Parameter.empty
    if (get_origin(resolved) or resolved) not in _LISTS:
        raise UnsupportedError(
            "but the function takes batches, and each parameter is a list with one item for each "
            "call: annotate it with a list, as in list[str] for an argument that is a str"
        )
    arguments = get_args(resolved)
    return arguments[0] if arguments else inspect.Parameter.empty


def signature_of(function: Any) -> inspect.Signature:
    """Returns a signature in which annotations that cannot be evaluated are text."""
    try:
        return inspect.signature(function)
    except NameError:
        # Python 3.14 evaluates them only now.
        evaluated, texts = _in_two_formats(inspect.signature, function, "annotation_format")
    parameters = [
        texts.parameters[each.name] if _has_text(each.annotation) else each
        for each in evaluated.parameters.values()
    ]
    signature: inspect.Signature = evaluated.replace(parameters=parameters)
    return signature


def shown(annotation: object) -> str:
    """Returns an annotation as it is written."""
    if isinstance(annotation, str):
        return annotation
    text = inspect.formatannotation(annotation).replace("NoneType", "None")
    return _FORWARD_REF.sub(r"\1", text)


class Annotations:
    """Creates builders for the annotations of one module or class, whose names it knows."""

    def __init__(
        self,
        names: Mapping[str, Any],
        scope: Optional[type] = None,
        variables: Optional[_Variables] = None,
        made: Optional[dict[object, MaybeBuilder]] = None,
    ) -> None:
        self._names = names
        self._scope = scope
        self._variables = variables or {}
        self._made: dict[object, MaybeBuilder] = {} if made is None else made

    def resolved(self, annotation: object) -> object:
        """Returns the annotation, evaluated if it is text."""
        while isinstance(annotation, (str, typing.ForwardRef)):
            text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
            try:
                annotation = self._evaluated(text)
            except Exception as error:
                raise _unresolved(error) from None
        return annotation

    def _evaluated(self, text: str) -> object:
        # A copy, because `eval` adds to it.
        names = dict(self._names)
        code: Any = text
        if sys.version_info < (3, 10):
            code, names["__Union__"] = _with_unions(text), Union
        try:
            return eval(code, names)
        except NameError:
            return eval(code, {**_names_of(self._scope), **names})

    def whole(self, annotation: object) -> MaybeBuilder:
        """As `builder`, for an annotation that is part of no other."""
        try:
            return self.builder(annotation)
        except RecursionError:
            raise UnsupportedError(_ENDLESS) from None

    def builder(self, annotation: object) -> MaybeBuilder:
        """Returns the builder for an annotation, or None if any value may pass."""
        annotation = _substituted(self.resolved(annotation), self._variables)
        inner = _unwrapped(annotation)
        if inner is not annotation:
            return self.builder(inner)
        if annotation is Any or annotation is object or annotation is inspect.Parameter.empty:
            return None
        if isinstance(annotation, typing.TypeVar):
            return self._of_variable(annotation)
        key = self._key(annotation)
        if key in self._made:
            return self._made[key]
        self._made[key] = later = Deferred(shown(annotation))
        later.target = self._made[key] = self._make(annotation)
        return later.target

    def _key(self, annotation: object) -> object:
        if isinstance(annotation, type) and not get_args(annotation):
            return annotation
        # Unions are equal in any order.
        text = repr(annotation)
        if len(text) > _LONGEST:
            raise UnsupportedError(_ENDLESS)
        place: tuple[object, ...] = ()
        if any(_depends_on_place(part) for part in _parts(annotation)):
            place = id(self._names), self._scope, *self._variables.items()
        key = annotation, text, place
        try:
            hash(key)
        except TypeError:
            # It has metadata that cannot be hashed.
            return text, repr(place)
        return key

    def _of_variable(self, variable: Any) -> MaybeBuilder:
        try:
            if hasattr(variable, "has_default") and variable.has_default():
                return self.builder(variable.__default__)
            choices = variable.__constraints__ or (variable.__bound__,)
        except NameError as error:
            # Python 3.12 evaluates them only now.
            raise _unresolved(error) from None
        return None if choices == (None,) else self.builder(Union[choices])

    def _make(self, annotation: Any) -> MaybeBuilder:
        for attribute, make in (("__metadata__", self._annotated), ("__value__", self._alias)):
            if hasattr(annotation, attribute):
                return make(annotation)
        origin, args = get_origin(annotation) or annotation, get_args(annotation)
        # To pydantic a dict would be a schema.
        if not isinstance(origin, collections.abc.Hashable):
            raise UnsupportedError(_NO_TYPE)
        if origin in _UNIONS:
            return self._union(annotation)
        if origin is Literal or (not args and annotation in _PLAIN):
            return Plain(shown(annotation), _PLAIN.get(annotation, ()), args)
        if origin is tuple:
            return self._tuple(annotation, args)
        return self._container(annotation, origin, args) or self._class(annotation, origin, args)

    def _alias(self, alias: Any) -> MaybeBuilder:
        names = (get_origin(alias) or alias).__type_params__
        variables = _given(names, map(self.resolved, get_args(alias)))
        return self._with(self._names, self._scope, variables).builder(alias.__value__)

    def _annotated(self, annotation: Any) -> MaybeBuilder:
        inner, metadata = annotation.__origin__, annotation.__metadata__
        if not any(map(pydantic_builders.is_pydantic_metadata, metadata)):
            return self.builder(inner)
        second = pydantic_builders.adapter(annotation, shown(inner))
        if second is None:
            raise UnsupportedError(
                "which needs pydantic: install it (pip install pydantic), or leave the metadata out"
            )
        # If the constraints only check, the type is built strictly first.
        if all(map(pydantic_builders.only_checks, metadata)):
            first = self.builder(inner)
            if first is not None and not isinstance(first, pydantic_builders.Adapter):
                return Chained(first, second)
        return second

    def _union(self, annotation: Any) -> MaybeBuilder:
        choices = [(self.builder(choice), choice) for choice in get_args(annotation)]
        expected = shown(annotation)
        builders = [builder for builder, _ in choices if builder is not None]
        if len(builders) < len(choices):
            return None
        plain = [builder for builder in builders if isinstance(builder, Plain)]
        if len(plain) == len(builders):
            return plain_union(expected, plain)
        # Pydantic chooses among its own types.
        adapted = [
            choice for builder, choice in choices if isinstance(builder, pydantic_builders.Adapter)
        ]
        if len(adapted) > 1:
            together = pydantic_builders.adapter(Union[tuple(adapted)], expected)
            assert together is not None
            builders = [one for one in builders if not isinstance(one, pydantic_builders.Adapter)]
            builders.append(together)
        return OneOf(expected, builders)

    def _container(self, annotation: Any, origin: Any, args: Any) -> MaybeBuilder:
        expected = shown(annotation)
        if origin in _LISTS:
            item = self.builder(args[0]) if args else None
            return Plain(expected, (list,)) if item is None else ListOf(expected, item)
        if origin in _MADE_OF_LISTS:
            cls = _MADE_OF_LISTS[origin]
            return ListOf(expected, self.builder(args[0]) if args else None, cls, cls)
        if origin in _MAPS:
            key, item = map(self.builder, args) if args else (None, None)
            read = key_reader(key)
            if read is None and item is None:
                return Plain(expected, (dict,))
            return MapOf(expected, read, item)
        if origin is Input:
            return InputOf(expected, self.builder(args[0]) if args else None)
        return None

    def _tuple(self, annotation: Any, args: Any) -> Builder:
        expected = shown(annotation)
        if annotation in (tuple, typing.Tuple):  # noqa: UP006 (it may be either)
            return ListOf(expected, None, tuple, tuple)
        if args[1:] == (...,):
            return ListOf(expected, self.builder(args[0]), tuple, tuple)
        # The arguments of `tuple[()]` before Python 3.11.
        items = () if args == ((),) else args
        return TupleOf(expected, [self.builder(item) for item in items])

    def _class(self, annotation: Any, origin: Any, args: Any) -> Builder:
        builder = None
        expected = shown(annotation)
        if isinstance(origin, type) and not pydantic_builders.is_pydantic(origin):
            if _root(origin) == "numpy" and args:
                builder = _array(expected, origin, args)
            elif issubclass(origin, _enum()):
                builder = Member(expected, origin)
            elif _is_typed_dict(origin):
                builder = self._typed_dict(annotation, origin, args)
            elif hasattr(origin, "__dataclass_fields__") or _is_named_tuple(origin):
                builder = self._constructed(annotation, origin, args)
            elif not args or origin.__module__ == "os":
                builder = scalar(origin, expected)
        if builder is None and origin not in (collections.abc.Callable, type):
            builder = pydantic_builders.adapter(annotation, expected)
        if builder is None:
            raise UnsupportedError(_NO_TYPE)
        return builder

    def _constructed(self, annotation: Any, cls: type, args: Any) -> Builder:
        fields = Fields(shown(annotation), cls, cls)
        self._made[self._key(annotation)] = fields
        hints = _hints(cls)
        variables = _variables_of(cls, map(self.resolved, args))
        parameters = signature_of(cls).parameters
        for name, parameter in parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise UnsupportedError(
                    f"whose __init__ takes {parameter}: it must take each field by its name"
                )
            hint, base = hints.get(name, (parameter.annotation, cls))
            builder = self._within(base, variables.get(base, {})).field(cls, name, hint)
            nothing = parameter.default is None and builder is not None
            fields.fields[name] = or_none(builder) if nothing and builder else builder
        fields.required = frozenset(
            name for name, each in parameters.items() if each.default is each.empty
        )
        fields.by_place = issubclass(cls, tuple)
        return fields

    def _typed_dict(self, annotation: Any, cls: Any, args: Any) -> Builder:
        fields = Fields(shown(annotation), dict, None)
        self._made[self._key(annotation)] = fields
        required = set(cls.__required_keys__)
        variables = _variables_of(cls, map(self.resolved, args))
        for name, (hint, base) in _hints_of_typed_dict(variables).items():
            within = self._within(base, variables[base])
            fields.fields[name] = within.field(cls, name, hint)
            # The class does not know the qualifiers of annotations that are text.
            qualifier = _name(get_origin(within.resolved(hint)))
            if qualifier == "NotRequired":
                required.discard(name)
            elif qualifier == "Required":
                required.add(name)
        fields.required = frozenset(required)
        return fields

    def field(self, cls: type, name: str, hint: object) -> MaybeBuilder:
        try:
            return self.builder(hint)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"whose field {cls.__name__}.{name} is annotated with {shown(hint)}, {error}"
            ) from None

    def _within(self, base: type, variables: _Variables) -> Annotations:
        names = getattr(sys.modules.get(base.__module__), "__dict__", {})
        return self._with(names, base, variables)

    def _with(
        self, names: Mapping[str, Any], scope: Optional[type], variables: _Variables
    ) -> Annotations:
        return Annotations(names, scope, variables, self._made)


def _substituted(annotation: Any, variables: _Variables) -> Any:
    """Returns an annotation with what stands for its variables."""
    if isinstance(annotation, typing.TypeVar):
        return variables.get(annotation, annotation)
    # A class has its own variables, which nothing stands for.
    free = () if isinstance(annotation, type) else getattr(annotation, "__parameters__", ())
    if variables.keys().isdisjoint(free):
        return annotation
    # A variable for any number of types is unpacked.
    return annotation[
        tuple(variables.get(one, next(iter(one)) if _is_variadic(one) else one) for one in free)
    ]


def _is_variadic(variable: object) -> bool:
    # The class is that of typing or of typing_extensions.
    return type(variable).__name__ == "TypeVarTuple"


def _given(names: Iterable[object], args: Iterable[object]) -> _Variables:
    """Returns what stands for each variable; nothing for one of any number of types."""
    names, args = list(names), list(args)
    at = next((place for place, name in enumerate(names) if _is_variadic(name)), len(names))
    after = names[at + 1 :]
    return {**dict(zip(names[:at], args)), **dict(zip(after, args[len(args) - len(after) :]))}


def _variables_of(cls: type, args: Iterable[object]) -> dict[type, _Variables]:
    """Returns what stands for the variables of a class with `args`, and for those of its bases."""
    variables = _given(getattr(cls, "__parameters__", ()), args)
    found: dict[type, _Variables] = {cls: variables}
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type):
            arguments = [_substituted(one, variables) for one in get_args(base)]
            found = {**_variables_of(origin, arguments), **found}
    return found


def type_parameters(owner: object) -> dict[str, object]:
    """Returns the type parameters of a class or a function, by their names."""
    return {one.__name__: one for one in getattr(owner, "__type_params__", ())}


def _names_of(cls: Optional[type]) -> dict[str, object]:
    """Returns the names defined in a class and in its bases, and the names of these."""
    names: dict[str, object] = {}
    for base in reversed(() if cls is None else cls.__mro__):
        names.update(vars(base))
        names[base.__name__] = base
    # The bases of a typed dict are only there.
    for base in () if cls is None else _variables_of(cls, ()):
        names.update(type_parameters(base))
    return names


def _hints(cls: type) -> dict[str, tuple[object, type]]:
    """Returns the annotations of a class and of its bases, each with the class it is in."""
    hints: dict[str, tuple[object, type]] = {}
    for base in reversed(cls.__mro__):
        hints.update({name: (hint, base) for name, hint in _own_annotations(base).items()})
    return hints


def _hints_of_typed_dict(bases: Iterable[type]) -> dict[str, tuple[object, type]]:
    """As `_hints`: a typed dict has the annotations of its bases too, and no base in Python."""
    hints: dict[str, tuple[object, type]] = {}
    for base in bases:
        for name, hint in _own_annotations(base).items():
            if name not in hints or hints[name][0] != hint:
                hints[name] = hint, base
    return hints


def _own_annotations(cls: type) -> dict[str, object]:
    """Returns the annotations in a class; those that cannot be evaluated are text."""
    if "__annotations__" in vars(cls):
        return dict(vars(cls)["__annotations__"])
    # Python 3.14 keeps them elsewhere, and evaluates them only now.
    get: Any = getattr(inspect, "get_annotations", None)
    try:
        return {} if get is None else dict(get(cls))
    except NameError:
        evaluated, texts = _in_two_formats(get, cls, "format")
        return {name: texts[name] if _has_text(each) else each for name, each in evaluated.items()}


def _in_two_formats(get: Callable[..., Any], owner: object, form: str) -> tuple[Any, Any]:
    """Returns annotations with what stands for those that cannot be evaluated, and as text."""
    formats: Any = importlib.import_module("annotationlib").Format
    return get(owner, **{form: formats.FORWARDREF}), get(owner, **{form: formats.STRING})


def _has_text(annotation: object) -> bool:
    """Whether a part of an annotation is not evaluated."""
    return any(isinstance(part, _TEXT) for part in _parts(annotation))


def _depends_on_place(part: object) -> bool:
    """Whether a part means what the names where it is say, as the value of an alias may."""
    return isinstance(part, _TEXT) or hasattr(part, "__value__")


def _parts(annotation: object) -> Iterator[object]:
    """Yields an annotation and the annotations in it."""
    yield annotation
    if get_origin(annotation) is not Literal:
        parts = annotation if isinstance(annotation, list) else get_args(annotation)
        for part in parts[:1] if hasattr(annotation, "__metadata__") else parts:
            yield from _parts(part)


def _unresolved(error: Exception) -> UnsupportedError:
    return UnsupportedError(
        f"which cannot be resolved ({type(error).__name__}: {error}): its names must exist at run "
        "time, so import them outside `if TYPE_CHECKING`"
    )


def _unwrapped(annotation: Any) -> Any:
    """Returns the annotation inside a `NewType`, or a qualifier of a field."""
    if hasattr(annotation, "__metadata__"):
        return annotation
    if hasattr(annotation, "__supertype__"):
        return annotation.__supertype__
    if isinstance(annotation, _initialised()):
        return annotation.type
    if _name(get_origin(annotation)) in _QUALIFIERS:
        return get_args(annotation)[0]
    return annotation


def _array(expected: str, cls: type, args: Any) -> Builder:
    (scalar_type, *_) = (*get_args(args[-1]), object)
    # `Any` is a class from Python 3.11 on.
    is_class = isinstance(scalar_type, type) and scalar_type is not Any
    return Array(expected, cls, scalar_type if is_class else object)


def _enum() -> type:
    import enum

    return enum.Enum


def _initialised() -> Any:
    dataclasses = sys.modules.get("dataclasses")
    return () if dataclasses is None else dataclasses.InitVar


def _is_typed_dict(cls: type) -> bool:
    return issubclass(cls, dict) and hasattr(cls, "__required_keys__")


def _is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _root(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _name(form: object) -> str:
    """Returns the name of a special form of typing or typing_extensions."""
    return str(getattr(form, "_name", None) or getattr(form, "__name__", ""))


def _with_unions(text: str) -> Any:
    """Compiles an annotation with `X | Y` for Python 3.9, which cannot evaluate it."""
    import ast

    class Unions(ast.NodeTransformer):
        def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
            self.generic_visit(node)
            if not isinstance(node.op, ast.BitOr):
                return node
            choices = ast.Tuple([node.left, node.right], ast.Load())
            return ast.Subscript(ast.Name("__Union__", ast.Load()), choices, ast.Load())

    tree = Unions().visit(ast.parse(text, mode="eval"))
    return compile(ast.fix_missing_locations(tree), "<annotation>", "eval")
