"""Runs the hooks of an adapter: when the worker starts, a session ends, and the worker stops."""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Optional

from snakepit_bridge._commands import context_variables
from snakepit_bridge._commands.hooks import Hooks
from snakepit_bridge._commands.sessions import Session, Sessions
from snakepit_bridge._errors.exits import exit_now
from snakepit_bridge._errors.guards import ReportTo

if TYPE_CHECKING:
    from concurrent.futures import Future

_log = logging.getLogger("snakepit_bridge")


class HookRunner:
    """Runs plain hooks in the calling thread, and `async` hooks on the event loop."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def sessions(self, most: int, ttl: float) -> Sessions:
        """Creates the worker's sessions, which run `session_ended` if the adapter has that hook."""
        if self._hooks.session_ended is None:
            return Sessions(most, ttl)
        sessions = Sessions(most, ttl, self.session_ended)
        if ttl < math.inf:
            name = "snakepit-sessions"
            threading.Thread(target=sessions.expire, name=name, daemon=True).start()
        return sessions

    def start(self) -> None:
        """Runs `start`; every later call starts with the context variables that it has set."""
        start = self._hooks.start
        context = contextvars.copy_context() if start is None else _run(start)
        context_variables.set_base(context)

    def end(self, sessions: Sessions, seconds: float) -> None:
        """Ends the sessions, the adapter and the event loop, after the last call.

        If that takes longer than `seconds`, the process exits.
        """
        what = f"session_ended or close still runs after {seconds} s (:shutdown_timeout)"
        late = threading.Timer(seconds, exit_now, (what,))
        late.daemon = True
        late.start()
        sessions.end_all()
        self.close()
        # It is imported only if something was `async`.
        loop_thread = sys.modules.get("snakepit_bridge._threads.loop_thread")
        if loop_thread is not None:
            loop_thread.end()
        late.cancel()

    def close(self) -> None:
        """Runs `close`."""
        close = self._hooks.close
        if close is not None:
            with self._logging_failure("close"):
                _run(close)

    def session_ended(self, session_id: str, session: Session) -> Optional[Future[None]]:
        """Runs `session_ended`; returns a future if the hook is `async`."""
        hook = self._hooks.session_ended
        if hook is None:
            return None
        name = f"session_ended({session_id!r})"
        run = context_variables.new().run
        result: object = None
        with self._logging_failure(name):
            result = run(hook, session_id, session)
        if not inspect.isawaitable(result):
            return None
        from snakepit_bridge._threads import loop_thread

        awaitable: Awaitable[object] = result

        async def main() -> None:
            with self._logging_failure(name):
                await awaitable

        return run(loop_thread.shared().submit, main)

    def _logging_failure(self, name: str) -> ReportTo:
        return ReportTo(lambda _: _log.exception("%s.%s failed", self._hooks.adapter_name, name))


def _run(hook: Callable[[], object]) -> contextvars.Context:
    """Runs a hook, on the event loop if it is `async`; returns the context that it leaves."""
    result = hook()
    if not inspect.isawaitable(result):
        return contextvars.copy_context()
    from snakepit_bridge._threads import loop_thread

    awaitable: Awaitable[object] = result

    async def main() -> contextvars.Context:
        await awaitable
        return contextvars.copy_context()

    return loop_thread.shared().complete(main)
