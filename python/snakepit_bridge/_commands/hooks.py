"""The hooks of an adapter, found and checked once: `start`, `close` and `session_ended`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Optional

from snakepit_bridge._arguments.annotations import signature_of
from snakepit_bridge._commands.adapter import COMMAND_ATTRIBUTE, Adapter

#: The arguments of each hook.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "start": (),
    "close": (),
    "session_ended": ("session_id", "session"),
}
_WHEN = {
    "start": "runs when the worker starts",
    "close": "runs when the worker stops",
    "session_ended": "runs when a session has ended",
}

Hook = Callable[..., object]


class Hooks:
    """The hooks that an adapter has; None for the others.

    Raises a `TypeError` that says what was expected if a hook cannot be called with its arguments.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter_name = type(adapter).__name__
        self.start = _find(adapter, "start")
        self.close = _find(adapter, "close")
        self.session_ended = _find(adapter, "session_ended")


def _find(adapter: Adapter, name: str) -> Optional[Hook]:
    if getattr(type(adapter), name, None) is getattr(Adapter, name):
        return None
    hook: Any = getattr(adapter, name, None)
    # A command may have the name of a hook.
    if hook is None or hasattr(hook, COMMAND_ATTRIBUTE):
        return None
    arguments = _ARGUMENTS[name]
    wanted = f"{name}({', '.join(('self', *arguments))})"
    if not callable(hook) or _yields(inspect.unwrap(hook)):
        raise TypeError(
            f"{name}, which {_WHEN[name]}, must be a method {wanted}, plain or async, that yields "
            "nothing"
        )
    try:
        signature = signature_of(hook)
    except ValueError:
        signature = None
    try:
        if signature is not None:
            signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{name}, which {_WHEN[name]}, must be a method {wanted}; this one, {name}{signature}, "
            f"cannot be called this way: {error}. Put @command above it if it is a command"
        ) from None
    found: Hook = hook
    return found


def _yields(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
