"""What an adapter does when its worker starts, ends a session, and stops."""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Optional

from snakepit_bridge._commands.adapter import MARK, Adapter
from snakepit_bridge._commands.sessions import Session, Sessions
from snakepit_bridge._servers.signals import leave
from snakepit_bridge._threads import context_variables

if TYPE_CHECKING:
    from concurrent.futures import Future

#: With what each is called.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "start": (),
    "close": (),
    "session_ended": ("session_id", "session"),
}

_log = logging.getLogger("snakepit_bridge")


class AdapterHooks:
    """Raises a `TypeError` that says what was expected if one of them cannot be called so."""

    def __init__(self, adapter: Adapter) -> None:
        self._class = type(adapter).__name__
        self._start = _find(adapter, "start")
        self._close = _find(adapter, "close")
        self._session_ended = _find(adapter, "session_ended")

    def sessions(self, most: int, ttl: float) -> Sessions:
        """The sessions of the worker, whose ends the adapter is told of if it wants to be."""
        if self._session_ended is None:
            return Sessions(most, ttl)
        sessions = Sessions(most, ttl, self.session_ended)
        if ttl < math.inf:
            name = "snakepit-sessions"
            threading.Thread(target=sessions.expire, name=name, daemon=True).start()
        return sessions

    def start(self) -> None:
        """Runs `start`; every later call begins with the context variables that it leaves."""
        context = contextvars.copy_context() if self._start is None else _run(self._start)
        context_variables.set_base(context)

    def end(self, sessions: Sessions, seconds: float) -> None:
        """Ends the sessions, the adapter and the event loop, once no call runs any more.

        The process ends where they take longer than so many seconds.
        """
        what = f"session_ended or close still runs after {seconds} s (:shutdown_timeout)"
        late = threading.Timer(seconds, leave, (what,))
        late.daemon = True
        late.start()
        sessions.end_all()
        self.close()
        # Where nothing was `async` it was never imported.
        loop_thread = sys.modules.get("snakepit_bridge._threads.loop_thread")
        if loop_thread is not None:
            loop_thread.end()
        late.cancel()

    def close(self) -> None:
        """Runs `close`."""
        close = self._close
        if close is not None:
            self._attempt(lambda: _run(close), "close")

    def session_ended(self, session_id: str, session: Session) -> Optional[Future[None]]:
        """Runs `session_ended`; of an `async` one, which the event loop runs, returns a future."""
        hook = self._session_ended
        if hook is None:
            return None
        name = f"session_ended({session_id!r})"
        run = context_variables.new().run
        result = self._attempt(lambda: run(hook, session_id, session), name)
        if not inspect.isawaitable(result):
            return None
        from snakepit_bridge._threads import loop_thread

        return run(loop_thread.shared().submit, lambda: self._await(result, name))

    def _attempt(self, hook: Callable[[], object], name: str) -> object:
        try:
            return hook()
        except BaseException:
            self._log_failure(name)
            return None

    async def _await(self, hook: Awaitable[object], name: str) -> None:
        try:
            await hook
        except BaseException:
            self._log_failure(name)

    def _log_failure(self, name: str) -> None:
        _log.exception("%s.%s failed", self._class, name)


def _run(hook: Callable[[], object]) -> contextvars.Context:
    """Runs a hook, on the event loop if it is `async`; returns what variables it leaves."""
    result = hook()
    if not inspect.isawaitable(result):
        return contextvars.copy_context()
    from snakepit_bridge._threads import loop_thread

    awaitable: Awaitable[object] = result

    async def main() -> contextvars.Context:
        await awaitable
        return contextvars.copy_context()

    return loop_thread.shared().complete(main)


def _find(adapter: Adapter, name: str) -> Optional[Callable[..., object]]:
    if getattr(type(adapter), name, None) is getattr(Adapter, name):
        return None
    hook: Any = getattr(adapter, name, None)
    # A command may have any name.
    if hook is None or hasattr(hook, MARK):
        return None
    arguments = _ARGUMENTS[name]
    wanted = f"{name}({', '.join(('self', *arguments))})"
    if not callable(hook) or _yields(inspect.unwrap(hook)):
        raise TypeError(
            f"{name}, which {_WHEN[name]}, must be a method {wanted}, plain or async, that yields "
            "nothing"
        )
    try:
        signature = inspect.signature(hook)
    except ValueError:
        signature = None
    try:
        if signature is not None:
            signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(
            f"{name}, which {_WHEN[name]}, must be a method {wanted}; this one, {name}{signature}, "
            f"cannot be called so: {error}. Put @command above it if it is a command"
        ) from None
    found: Callable[..., object] = hook
    return found


def _yields(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


_WHEN = {
    "start": "runs when the worker starts",
    "close": "runs when the worker stops",
    "session_ended": "runs when a session has ended",
}
