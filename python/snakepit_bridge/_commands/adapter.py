"""What a user writes: a class whose decorated methods are commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Optional, TypeVar, Union, overload

from snakepit_bridge._commands.sessions import Session

_Function = TypeVar("_Function", bound=Callable[..., Any])

# A command's name under this attribute of the function; the empty string is the function's own.
MARK = "__snakepit_command__"


class Adapter:
    """The base of a worker's commands. Each worker process has one instance.

    `__init__` gets the pool's `adapter_args: [init: ...]` as keywords and runs before the worker
    accepts calls. The other hooks may be plain methods, which run in the process's main thread, or
    `async` ones, which run on the event loop.
    """

    def start(self) -> Optional[Awaitable[None]]:
        """Runs once after `__init__`, before the worker accepts calls.

        What it raises is why the worker does not start.
        """

    def close(self) -> Optional[Awaitable[None]]:
        """Runs once when the worker stops in good order, after the last call.

        What it raises is logged. It may take as long as the pool's `:shutdown_timeout`.
        """

    def session_ended(self, session_id: str, session: Session) -> Optional[Awaitable[None]]:
        """Runs when a session has ended, with what its calls have kept.

        That is when it was ended, expired or had to make room for others, and when the worker
        stops; after the last call of the session, and before the first one if it begins anew. What
        it raises is logged.
        """


@overload
def command(function: _Function, /) -> _Function: ...


@overload
def command(*, name: Optional[str] = None) -> Callable[[_Function], _Function]: ...


def command(
    function: Optional[_Function] = None, /, *, name: Optional[str] = None
) -> Union[_Function, Callable[[_Function], _Function]]:
    """Makes a method a command, under its own name or under `name`.

    The method may be a function, a generator, or the `async` form of either. It gets the call's
    arguments as keywords. A parameter that is annotated with `Context`, or named `context`, gets
    the call's context instead.
    """

    def mark(function: _Function) -> _Function:
        marked: Any = function
        if isinstance(function, (staticmethod, classmethod)):
            marked = function.__func__
        elif isinstance(function, type) or not callable(function):
            raise TypeError(f"@command goes on a method, not on {function!r}")
        try:
            setattr(marked, MARK, name or "")
        except AttributeError:
            raise TypeError(
                "@command goes on a method, or on an object that is called and has attributes, "
                f"not on {function!r}"
            ) from None
        return function

    return mark if function is None else mark(function)
