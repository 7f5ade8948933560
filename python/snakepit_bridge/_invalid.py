"""How a value that cannot travel is named."""

from __future__ import annotations

MAX_DEPTH = 128

_LONGEST_PATH = 60


class InvalidValueError(ValueError):
    """A value that cannot travel; the message says where it is and what it is."""


def too_deep(path: str) -> InvalidValueError:
    path = path if len(path) < _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
    return InvalidValueError(f"{path} is nested deeper than {MAX_DEPTH} levels")


def qualified_name(cls: type) -> str:
    """A class's name as Python prints it: without a module if that is `builtins`."""
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def path_to(path: str, *names: str) -> str:
    for name in names:
        path += f".{name}" if name.isidentifier() else f"[{name!r}]"
    return path
