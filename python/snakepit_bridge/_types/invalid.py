"""How a value that cannot travel is named."""

from __future__ import annotations

MAX_DEPTH = 128

_LONGEST_PATH = 60


class InvalidValueError(ValueError):
    """A value that cannot travel; the message says where it is and what it is."""


def too_deep(path: str) -> InvalidValueError:
    path = path if len(path) < _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
    return InvalidValueError(f"{path} is nested deeper than {MAX_DEPTH} levels")


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
    """The name of the module of a class, "" if it is none."""
    try:
        module = _module_of(cls)
    except AttributeError:
        return ""
    return str.__str__(module) if issubclass(type(module), str) else ""


def path_to(path: str, *names: str) -> str:
    for name in names:
        path += f".{name}" if name.isidentifier() else f"[{name!r}]"
    return path
