"""Names and texts of classes and values whose own code may raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

# A metaclass may define properties of these names, which may raise.
_module_of = type.__dict__["__module__"].__get__
_name_of = type.__dict__["__name__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__


def qualified_name(cls: type) -> str:
    """Returns a class's name as Python prints it: without the module if that is `builtins`."""
    # In an error, an empty type would mean that no exception was raised.
    name = str.__str__(_qualname_of(cls)) or "<unnamed>"
    # The body of the class may have assigned anything to `__module__`.
    module = module_name(cls)
    return name if module in ("", "builtins", "__main__") else f"{module}.{name}"


def class_name(cls: type) -> str:
    return str.__str__(_name_of(cls))


def module_name(cls: type) -> str:
    """Returns the name of a class's module, "" if it has none."""
    try:
        module = _module_of(cls)
    except AttributeError:
        return ""
    return str.__str__(module) if issubclass(type(module), str) else ""


def attempt(ask: Callable[[], _T], otherwise: _T) -> _T:
    """Returns the result of `ask`, or `otherwise` if it raises anything."""
    try:
        return ask()
    except BaseException:
        return otherwise


def text_of(value: object) -> str:
    """Returns the `str` of a value as a plain `str`: a derived class may override methods."""
    return str.__str__(str(value))


def repr_of(error: BaseException) -> str:
    return attempt(lambda: str.__str__(repr(error)), f"<{qualified_name(type(error))}>")
