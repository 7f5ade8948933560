"""What the servers share: the signals that end them, and the end of a worker that does not."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enums of `signal`, which cost time
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Optional

from snakepit_bridge._threads.main_thread import MainThread

if TYPE_CHECKING:
    pass

_log = logging.getLogger("snakepit_bridge")


_ENDS = (signal.SIGTERM, signal.SIGINT)
# What a loop of asyncio leaves in place of the handlers that it had.
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Signals:
    """SIGTERM and SIGINT, from the making of this on. To be made in the main thread.

    The interpreter's C handler writes to a pipe, on whichever thread the signal comes and whatever
    the main thread is at; another thread waits for that. A command may have handlers of its own,
    for these signals as well: they run in the main thread, as in a script, and the pipe is written
    to all the same.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        #: Called for any other signal: its handler may wait for the main thread to do something.
        self.on_other: Callable[[], object] = int
        self._take((*_DEFAULTS, signal.SIG_IGN, None))
        self._masks = threading.local()
        os.register_at_fork(
            before=self._hold, after_in_parent=self._let_go, after_in_child=self._forget
        )

    def wait(self, timeout: Optional[float] = None) -> None:
        """Waits for one of them, for at most so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], left)[0]:
                return
            if os.read(self._reader, 1)[0] in _ENDS:
                return
            self.on_other()

    def await_end(self, announce: Optional[Callable[[], None]], shutdown_timeout: float) -> float:
        """Returns when it is time to end, and for how many seconds calls may go on from then on.

        A parent that is told by `announce` after the first signal makes no more calls. It sends the
        second one when none is left, or when it waits for them no longer.
        """
        self.wait()
        if announce is None:
            return shutdown_timeout
        announce()
        self.wait(shutdown_timeout)
        return 0.0

    def serve(
        self,
        main: MainThread,
        announce: Optional[Callable[[], None]],
        shutdown_timeout: float,
        stop: Callable[[float], None],
    ) -> None:
        """Serves in this thread until another one has ended the calls, once a signal says so.

        `stop` gets the seconds for which they may go on.
        """
        self.on_other = main.wake
        main.on_idle = self.restore
        self.end_in_thread(announce, shutdown_timeout, stop, main.close)
        main.serve()

    def end_in_thread(
        self,
        announce: Optional[Callable[[], None]],
        shutdown_timeout: float,
        stop: Callable[[float], None],
        release: Callable[[], None],
    ) -> None:
        """As `serve`, for a main thread that serves elsewhere until `release` lets it go."""

        def end() -> None:
            try:
                stop(self.await_end(announce, shutdown_timeout))
            finally:
                release()

        threading.Thread(target=end, name="snakepit-signals", daemon=True).start()

    def restore(self) -> None:
        """Takes the signals back that a command has set to their defaults, as event loops do.

        A handler that a command has set stays. To be called in the main thread.
        """
        self._take(_DEFAULTS)

    def _take(self, handlers: tuple[object, ...]) -> None:
        """Takes the signals that have one of these handlers."""
        for number in _ENDS:
            if _signal.getsignal(number) in handlers:
                signal.signal(number, self._handle)
        woken = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if woken not in (-1, self._writer):
            signal.set_wakeup_fd(woken)

    def _handle(self, number: int, _frame: object) -> None:
        # An event loop that a command runs may have the signals told to itself.
        woken = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if woken != self._writer:
            signal.set_wakeup_fd(woken)
            os.write(self._writer, bytes([number]))

    def _hold(self) -> None:
        """What ends a child that is being forked waits until that has handlers of its own."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)

    def _let_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _forget(self) -> None:
        """In a child that was forked: its signals are not this worker's."""
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        woken = signal.set_wakeup_fd(-1)
        if woken != self._writer:
            signal.set_wakeup_fd(woken)
        self._let_go()
