"""Builders: convert an argument to the type with which its parameter is annotated.

A value that already has that type is passed unchanged.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from typing import Any, Optional

from snakepit_bridge._errors.call_error import Fault
from snakepit_bridge._types.names import qualified_name

#: None passes every value unchanged.
MaybeBuilder = Optional["Builder"]

_NONE = type(None)


class MismatchError(Exception):
    """An argument that a builder does not accept."""

    def __init__(self, faults: list[Fault], *, is_type: bool = False) -> None:
        super().__init__(faults)
        self.faults = faults
        #: Whether its type is wrong, rather than its value.
        self.is_type = is_type


class Builder:
    """Builds values of an annotation; `expected` is its name in errors."""

    #: Values of exactly these types are passed unchanged, without a call of `build`.
    types: frozenset[type] = frozenset()
    #: Whether it only checks: values whose type was guessed are not checked.
    only_checks = False

    def __init__(self, expected: str) -> None:
        self.expected = expected

    def build(self, value: Any) -> Any:
        """Returns the value to pass; raises a `MismatchError`."""
        raise NotImplementedError

    def mismatch(self, value: object) -> MismatchError:
        return MismatchError(
            [Fault((), f"expected {self.expected}, got {_described(value)}")], is_type=True
        )


def mismatch_error(message: str) -> MismatchError:
    return MismatchError([Fault((), message)])


def _described(value: object) -> str:
    return f"{qualified_name(type(value))} {reprlib.repr(value)}"


class Collector:
    """Builds the parts of a value, and collects their faults."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def build(self, builder: MaybeBuilder, key: object, value: Any) -> Any:
        if builder is None or type(value) in builder.types:
            return value
        try:
            return builder.build(value)
        except MismatchError as error:
            self.faults += [Fault((key, *path), message) for path, message in error.faults]
            return None

    def add(self, key: object, message: str) -> None:
        self.faults.append(Fault((key,), message))

    def check(self) -> None:
        if self.faults:
            raise MismatchError(self.faults)


_BINARY = frozenset({bytes, memoryview})


class Plain(Builder):
    """Passes values of some types, and single values: `int`, `Literal["a", 1]`."""

    only_checks = True

    def __init__(
        self, expected: str, types: Iterable[type] = (), values: Iterable[object] = ()
    ) -> None:
        super().__init__(expected)
        self.types = frozenset(types)
        # By the value that arrives: a member of an enum is sent as its value.
        self.values = {
            key: value for value in values for key in (_sent(value), (type(value), value))
        }

    def build(self, value: Any) -> Any:
        kind = type(value)
        if kind in self.types:
            return value
        if kind is str and str not in self.types and self.types & _BINARY:
            # Any binary that is valid UTF-8 arrives as text.
            value = value.encode()
            kind = bytes
        if kind is bytes and memoryview in self.types:
            return value if bytes in self.types else memoryview(value)
        if kind is bytes and bytes in self.types:
            return value
        try:
            return self.values[kind, value]
        except (KeyError, TypeError):
            raise self.mismatch(value) from None


def _sent(value: object) -> tuple[type, object]:
    if hasattr(type(value), "__members__"):
        value = getattr(value, "value", value)
    return type(value), value


class Instance(Builder):
    """Passes instances of a class that arguments arrive as: `numpy.ndarray`, `Tensor`."""

    only_checks = True

    def __init__(self, expected: str, cls: type) -> None:
        super().__init__(expected)
        self.types = frozenset((cls,))
        self._cls = cls

    def build(self, value: Any) -> Any:
        if isinstance(value, self._cls):
            return value
        raise self.mismatch(value)


class Frame(Builder):
    """Builds a data frame from an Arrow table or a map of lists."""

    def __init__(self, expected: str, cls: Any, of_table: Callable[[Any], object]) -> None:
        super().__init__(expected)
        self._cls = cls
        self._of_table = of_table

    def build(self, value: Any) -> Any:
        if isinstance(value, self._cls):
            return value
        if qualified_name(type(value)) == "pyarrow.lib.Table":
            return self._of_table(value)
        if not isinstance(value, dict):
            raise self.mismatch(value)
        try:
            return self._cls(value)
        except Exception as error:
            raise mismatch_error(f"cannot be converted to {self.expected}: {error}") from error


class Array(Builder):
    """Passes numpy arrays of a dtype: `numpy.typing.NDArray[numpy.float32]`."""

    only_checks = True

    def __init__(self, expected: str, cls: Any, scalar: type) -> None:
        super().__init__(expected)
        self._cls = cls
        self._scalar = scalar

    def build(self, value: Any) -> Any:
        if not isinstance(value, self._cls):
            raise self.mismatch(value)
        dtype = value.dtype
        if not issubclass(dtype.type, self._scalar):
            raise mismatch_error(f"expected {self.expected}, got an array of dtype {dtype}")
        return value


class Scalar(Builder):
    """Builds a value that is sent as text or as a number: a `datetime`, a `Decimal`."""

    def __init__(
        self, expected: str, cls: type, sent_as: tuple[type, ...], read: Callable[[Any], object]
    ) -> None:
        super().__init__(expected)
        self._cls = cls
        self._sent_as = sent_as
        self._read = read

    def build(self, value: Any) -> Any:
        if isinstance(value, self._cls):
            return value
        if type(value) not in self._sent_as:
            raise self.mismatch(value)
        try:
            return self._read(value)
        except (ValueError, ArithmeticError, LookupError) as error:
            reason = f": {error}" if type(error) is ValueError else ""
            raise mismatch_error(
                f"{reprlib.repr(value)} is not a valid {self.expected}{reason}"
            ) from None


class Member(Builder):
    """Finds a member of an enum by its value."""

    def __init__(self, expected: str, cls: Any) -> None:
        super().__init__(expected)
        self._cls = cls

    def build(self, value: Any) -> Any:
        if isinstance(value, self._cls):
            return value
        # A tuple is sent as a list.
        for one in (value, tuple(value)) if type(value) is list else (value,):
            try:
                member = self._cls(one)
            except (ValueError, TypeError, KeyError):
                continue
            # To Python True and 1.0 equal 1.
            if not isinstance(one, (bool, float)) or type(member.value) is type(one):
                return member
        values = [member.value for member in self._cls]
        raise mismatch_error(
            f"expected {self.expected}, one of {', '.join(map(repr, values[:20]))}, "
            f"got {_described(value)}"
        )


class ListOf(Builder):
    """Builds a list, or a collection made from one, whose items have one type."""

    def __init__(
        self,
        expected: str,
        item: MaybeBuilder,
        make: Optional[Callable[[Iterable[Any]], object]] = None,
        cls: Any = list,
    ) -> None:
        super().__init__(expected)
        self._item = item
        self._make = make
        self._cls = cls

    def build(self, value: Any) -> Any:
        if not isinstance(value, list):
            if not isinstance(value, self._cls):
                raise self.mismatch(value)
            value = list(value)
        items = value
        if self._item is not None and not self._item.types.issuperset(map(type, value)):
            parts = Collector()
            items = [parts.build(self._item, index, item) for index, item in enumerate(value)]
            parts.check()
        if self._make is None:
            return items
        try:
            return self._make(items)
        except TypeError as error:
            raise mismatch_error(f"cannot be converted to {self.expected}: {error}") from None


class TupleOf(Builder):
    """Builds a tuple in which each item has a type of its own."""

    def __init__(self, expected: str, items: list[MaybeBuilder]) -> None:
        super().__init__(expected)
        self._items = items

    def build(self, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise self.mismatch(value)
        if len(value) != len(self._items):
            raise mismatch_error(f"expected {self.expected}, got {len(value)} items")
        parts = Collector()
        made = [parts.build(*each) for each in zip(self._items, range(len(value)), value)]
        parts.check()
        return tuple(made)


class MapOf(Builder):
    """Builds a dict whose keys have one type, and its values, too."""

    def __init__(
        self, expected: str, key: Optional[Callable[[Any], object]], item: MaybeBuilder
    ) -> None:
        super().__init__(expected)
        self._key = key
        self._item = item

    def build(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise self.mismatch(value)
        item = self._item
        if self._key is None and (item is None or item.types.issuperset(map(type, value.values()))):
            return value
        parts = Collector()
        made = {}
        for key, part in value.items():
            built = parts.build(item, key, part)
            try:
                own = key if self._key is None else self._key(key)
            except MismatchError as error:
                parts.faults += [Fault((key,), f"the key: {each.message}") for each in error.faults]
                continue
            if own in made:
                parts.add(key, f"the key: {own!r} is given more than once")
            made[own] = built
        parts.check()
        return made


def key_reader(builder: MaybeBuilder) -> Optional[Callable[[Any], object]]:
    """Returns a function that converts keys, which are sent as text; None if they stay text."""
    if builder is None or str in builder.types:
        return None
    if builder.types.isdisjoint((int, float, bool)):
        return lambda key: _built_key(builder, key)
    return lambda key: _plain_key(builder, key)


def _plain_key(builder: Builder, key: Any) -> object:
    meaning = _meaning(key)
    return meaning if type(meaning) in builder.types else _built_key(builder, key)


def _built_key(builder: Builder, key: Any) -> object:
    """Builds a key from its text, or else from what the text means."""
    try:
        return builder.build(key)
    except MismatchError as error:
        meaning = _meaning(key)
        if meaning is key:
            raise
        try:
            return builder.build(meaning)
        except MismatchError as second:
            raise second if error.is_type and not second.is_type else error from None


def _meaning(key: Any) -> object:
    """Returns the number or the boolean that was sent as text, or the key itself."""
    if not isinstance(key, str):
        return key
    if key in ("true", "false"):
        return key == "true"
    try:
        return int(key)
    except ValueError:
        pass
    try:
        return float(key)
    except ValueError:
        return key


class Fields(Builder):
    """Builds an object with named fields: a dataclass, a named tuple, a `TypedDict`."""

    def __init__(self, expected: str, make: Callable[..., object], cls: Optional[type]) -> None:
        super().__init__(expected)
        self._make = make
        self._cls = cls
        #: Set later: a field may have this type itself.
        self.fields: dict[str, MaybeBuilder] = {}
        self.required: frozenset[str] = frozenset()
        #: Whether the fields may arrive as a list, in their order.
        self.by_place = False

    def build(self, value: Any) -> Any:
        if self._cls is not None and isinstance(value, self._cls):
            return value
        if self.by_place and isinstance(value, (list, tuple)):
            if len(value) > len(self.fields):
                raise mismatch_error(f"expected {self.expected}, got {len(value)} items")
            value = dict(zip(self.fields, value))
        if not isinstance(value, dict):
            raise self.mismatch(value)
        parts = Collector()
        made = {
            name: parts.build(builder, name, value[name])
            for name, builder in self.fields.items()
            if name in value
        }
        for name in self.fields:
            if name in self.required and name not in value:
                parts.add(name, "missing")
        for name in value:
            if name not in self.fields:
                parts.add(name, f"unknown: the fields are {', '.join(self.fields)}")
        parts.check()
        try:
            return self._make(**made)
        except (ValueError, AssertionError) as error:
            raise mismatch_error(f"{type(error).__name__}: {error}") from error


class OneOf(Builder):
    """Passes a value whose type a choice names; otherwise the first choice that can builds it."""

    def __init__(self, expected: str, choices: list[Builder]) -> None:
        super().__init__(expected)
        self._choices = choices
        self.types = frozenset[type]().union(*(choice.types for choice in choices))

    def build(self, value: Any) -> Any:
        mismatches: list[tuple[Builder, MismatchError]] = []
        for choice in self._choices:
            if type(value) in choice.types:
                return value
            try:
                return choice.build(value)
            except MismatchError as error:
                if not error.is_type:
                    mismatches.append((choice, error))
        if not mismatches:
            raise self.mismatch(value)
        if len(mismatches) == 1:
            raise mismatches[0][1]
        raise MismatchError(
            [
                Fault(path, f"{message} (as {choice.expected})")
                for choice, error in mismatches
                for path, message in error.faults
            ]
        )


class Deferred(Builder):
    """Stands for a builder that is being created, in a type that refers to itself."""

    target: MaybeBuilder = None

    def build(self, value: Any) -> Any:
        if self.target is None or type(value) in self.target.types:
            return value
        return self.target.build(value)


class Chained(Builder):
    """Applies a builder, and a second one to its result."""

    def __init__(self, first: Builder, second: Builder) -> None:
        super().__init__(first.expected)
        self._first = first
        self._second = second

    def build(self, value: Any) -> Any:
        if type(value) not in self._first.types:
            value = self._first.build(value)
        return self._second.build(value)


def or_none(builder: Builder) -> Builder:
    """Returns a builder like `builder` that also accepts None."""
    if isinstance(builder, Plain):
        return Plain(builder.expected, builder.types | {_NONE}, builder.values.values())
    return OneOf(builder.expected, [Plain("None", {_NONE}), builder])


def plain_union(expected: str, choices: Iterable[Plain]) -> Plain:
    """Returns one builder for all the choices."""
    types: set[type] = set()
    values: list[object] = []
    for choice in choices:
        types |= choice.types
        values += choice.values.values()
    return Plain(expected, types, values)
