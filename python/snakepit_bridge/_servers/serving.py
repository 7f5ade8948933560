"""The parts that all servers share: sessions, the signals that end them, and their end."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from snakepit_bridge._errors.exits import exit_while_running
from snakepit_bridge._process.options import Options
from snakepit_bridge._process.signals import Signals
from snakepit_bridge._threads.hook_runner import HookRunner
from snakepit_bridge._threads.main_thread import MainThread

#: Distinguishes this process from another one that serves at the same address later.
INSTANCE_ID = int.from_bytes(os.urandom(8), "little")

#: Waits so many seconds for the calls to end; returns whether all have ended.
Wait = Callable[[float], bool]


class Serving:
    """Must be created in the main thread, when the adapter has started.

    When a signal arrives, the function `drain` of `serve` asks clients to send no more calls. A
    parent that is a BEAM, or reads stdout, sends a second signal when no call is left, or when it
    no longer waits for them; a server by itself goes on after `--drain-delay`. Then `finish` lets
    the running calls finish within `--shutdown-timeout`, and `cancel` cancels the others and waits
    for `--kill-grace`. If some still run, the process exits.
    """

    def __init__(self, hooks: HookRunner, options: Options, *, by_itself: bool = False) -> None:
        self.signals = Signals()
        self.sessions = hooks.sessions(options.max_sessions, options.session_ttl)
        self._hooks = hooks
        self._options = options
        patience = options.shutdown_timeout
        self._pause, self._finishes_within = (
            (options.drain_delay, patience) if by_itself else (patience, 0.0)
        )

    def serve(
        self, main: MainThread, drain: Callable[[], None], finish: Wait, cancel: Wait
    ) -> None:
        """Serves in this thread until the calls have ended."""
        stop = functools.partial(self._stop, finish, cancel)
        self.signals.serve(main, drain, self._pause, stop)

    def stop_from_thread(
        self,
        drain: Callable[[], None],
        finish: Wait,
        cancel: Wait,
        release: Callable[[], None],
    ) -> None:
        """Like `serve`, for a main thread that serves elsewhere until `release` is called."""
        stop = functools.partial(self._stop, finish, cancel)
        self.signals.end_in_thread(drain, self._pause, stop, release)

    def end(self) -> None:
        """Ends the sessions and the adapter, after the last call."""
        self._hooks.end(self.sessions, self._options.shutdown_timeout)

    def _stop(self, finish: Wait, cancel: Wait) -> None:
        kill_grace = self._options.kill_grace
        if not finish(self._finishes_within) and not cancel(kill_grace):
            exit_while_running(kill_grace)
