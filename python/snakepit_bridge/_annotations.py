"""Which arguments a parameter's annotation lets in."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Optional, Union, get_args, get_origin

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
    list: (list,),
    dict: (dict,),
}
_BINARY = {bytes, memoryview}
_UNIONS = (Union, getattr(types, "UnionType", Union))


class Check:
    """The types and the single values that are let in."""

    __slots__ = ("_values", "types")

    def __init__(self, types: frozenset[type], values: frozenset[tuple[type, object]]) -> None:
        self.types = types
        self._values = values

    def __or__(self, other: Check) -> Check:
        return Check(self.types | other.types, self._values | other._values)

    def accepts(self, value: object) -> bool:
        if type(value) in self.types or self._means_bytes(value):
            return True
        if type(value) is bytes and memoryview in self.types:
            return True
        try:
            return (type(value), value) in self._values
        except TypeError:
            return False

    def convert(self, value: object) -> object:
        """An accepted value as the parameter gets it: bytes as a view where it takes no bytes."""
        if self._means_bytes(value):
            value = str(value).encode()
        if type(value) is bytes and memoryview in self.types and bytes not in self.types:
            return memoryview(value)
        return value

    def _means_bytes(self, value: object) -> bool:
        # Any binary that is UTF-8 arrives as text.
        return type(value) is str and bool(self.types & _BINARY) and str not in self.types


def check_of(annotation: object, default: object, names: Mapping[str, Any]) -> Optional[Check]:
    """The check that an annotation is, or None if it is one that lets anything in."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(names))
        except Exception:
            return None
    check = _check(annotation)
    return check | _of_types(_NONE) if check is not None and default is None else check


def _check(annotation: object) -> Optional[Check]:
    origin = get_origin(annotation) or annotation
    if origin in _UNIONS:
        return _either([_check(choice) for choice in get_args(annotation)])
    if origin is Literal:
        return Check(frozenset(), frozenset((type(v), v) for v in get_args(annotation)))
    try:
        return _of_types(*_PLAIN[origin])
    except (KeyError, TypeError):
        return None


def _either(choices: list[Optional[Check]]) -> Optional[Check]:
    whole = _of_types()
    for choice in choices:
        if choice is None:
            return None
        whole |= choice
    return whole


def _of_types(*types: type) -> Check:
    return Check(frozenset(types), frozenset())
