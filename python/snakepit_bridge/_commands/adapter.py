"""The base class of a user's commands, and the decorator that makes a method a command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Optional, TypeVar, Union, overload

from snakepit_bridge._arguments.batching import Batching, batching, check_function
from snakepit_bridge._commands.sessions import Session

_Function = TypeVar("_Function", bound=Callable[..., Any])

# The attribute of a function that holds its `Mark`.
COMMAND_ATTRIBUTE = "__snakepit_command__"


class Mark(NamedTuple):
    """What `@command` was given."""

    #: Empty for the name of the function.
    name: str
    batching: Optional[Batching] = None


class Adapter:
    """The base class of a worker's commands. Each worker process creates one instance.

    `__init__` receives the pool's `adapter_args: [init: ...]` as keywords and runs before the
    worker accepts calls. The other hooks may be plain methods, which run in the process's main
    thread, or `async` methods, which run on the event loop.
    """

    def start(self) -> Optional[Awaitable[None]]:
        """Runs once after `__init__`, before the worker accepts calls.

        If it raises, the worker does not start, and the error names the exception.
        """

    def close(self) -> Optional[Awaitable[None]]:
        """Runs once after the last call, when the worker stops in an orderly way.

        Exceptions are logged. It may take as long as the pool's `:shutdown_timeout`.
        """

    def session_ended(self, session_id: str, session: Session) -> Optional[Awaitable[None]]:
        """Runs when a session has ended, with the dict that its calls have shared.

        A session ends when the caller ends it, when it expires or is removed to make room for
        others, and when the worker stops. The hook runs after the session's last call and, if the
        session begins anew, before its first call. Exceptions are logged.
        """


@overload
def command(function: _Function, /) -> _Function: ...


@overload
def command(
    *,
    name: Optional[str] = None,
    batch: Optional[int] = None,
    wait_ms: Optional[float] = None,
    max_bytes: Optional[int] = None,
) -> Callable[[_Function], _Function]: ...


def command(
    function: Optional[_Function] = None,
    /,
    *,
    name: Optional[str] = None,
    batch: Optional[int] = None,
    wait_ms: Optional[float] = None,
    max_bytes: Optional[int] = None,
) -> Union[_Function, Callable[[_Function], _Function]]:
    """Makes a method a command, under its own name or under `name`.

    The method may be a function, a generator, or the `async` form of either. It receives the call's
    arguments as keywords. A parameter that is annotated with `Context`, or named `context`,
    receives the call's context instead.

    With `batch`, up to so many calls gather into one call of the method, which must not be a
    generator. Each of its parameters is a list with one item for each call; a single parameter is
    the list of the calls' arguments, each a dict, or an object of the annotated type. It returns a
    list with one result for each call, in their order; an exception in it is the error of that
    call. A batch waits at most `wait_ms` milliseconds (default 5) for further calls, and its
    arguments have at most `max_bytes` bytes (default 16 MiB). The guide "Serving models" has the
    details.
    """
    batched = batching(batch, wait_ms, max_bytes)

    def mark(function: _Function) -> _Function:
        marked: Any = function
        if isinstance(function, (staticmethod, classmethod)):
            marked = function.__func__
        elif isinstance(function, type) or not callable(function):
            raise TypeError(f"@command decorates a method, not {function!r}")
        if batched is not None:
            check_function(marked, getattr(marked, "__qualname__", repr(marked)))
        try:
            setattr(marked, COMMAND_ATTRIBUTE, Mark(name or "", batched))
        except AttributeError:
            raise TypeError(
                "@command decorates a method, or a callable object that can have attributes, "
                f"not {function!r}"
            ) from None
        return function

    return mark if function is None else mark(function)
