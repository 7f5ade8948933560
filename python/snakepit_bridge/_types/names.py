"""What classes and values are called, whatever their own code does when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

# A metaclass may have properties of these names, which may raise.
_module_of = type.__dict__["__module__"].__get__
_name_of = type.__dict__["__name__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__


def qualified_name(cls: type) -> str:
    """A class's name as Python prints it: without a module if that is `builtins`."""
    # An error with an empty type is none that was raised.
    name = str.__str__(_qualname_of(cls)) or "<unnamed>"
    # For a class this is whatever its body assigned to `__module__`.
    module = module_name(cls)
    return name if module in ("", "builtins", "__main__") else f"{module}.{name}"


def class_name(cls: type) -> str:
    return str.__str__(_name_of(cls))


def module_name(cls: type) -> str:
    """The name of the module of a class, "" if it has none."""
    try:
        module = _module_of(cls)
    except AttributeError:
        return ""
    return str.__str__(module) if issubclass(type(module), str) else ""


def attempt(ask: Callable[[], _T], otherwise: _T) -> _T:
    """What `ask` returns, or `otherwise` if it raises, whatever it raises."""
    try:
        return ask()
    except BaseException:
        return otherwise


def text_of(value: object) -> str:
    """Its `str`, as a plain one: a class derived from `str` has methods of its own."""
    return str.__str__(str(value))


def repr_of(error: BaseException) -> str:
    return attempt(lambda: str.__str__(repr(error)), f"<{qualified_name(type(error))}>")
