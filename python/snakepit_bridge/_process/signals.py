"""The signals that end a worker."""

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
# The handlers that an asyncio loop leaves behind.
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
#: How long `poll` waits at most, in milliseconds: 24 days.
_LONGEST = 2**31 - 1


class Signals:
    """Handles SIGTERM and SIGINT. Must be created in the main thread.

    The interpreter's C handler writes to a pipe, in whichever thread the signal arrives and
    whatever the main thread does; another thread reads the pipe. A command may set handlers of its
    own, also for these signals: they run in the main thread, as in a script, and the pipe is still
    written to.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        #: Called for any other signal, whose Python handler may need the main thread to wake.
        self.on_other: Callable[[], object] = int
        self._handle_those_with((*_DEFAULTS, signal.SIG_IGN, None))
        self._masks = threading.local()
        os.register_at_fork(
            before=self._block, after_in_parent=self._unblock, after_in_child=self._reset_in_child
        )

    def wait(self, timeout: Optional[float] = None) -> None:
        """Waits for one of the two signals, at most `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        # `select.select` takes no descriptor from 1024 on, and an adapter may have opened as many.
        readable = select.poll()
        readable.register(self._reader, select.POLLIN)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not readable.poll(None if left is None else min(left * 1000, _LONGEST)):
                return
            if os.read(self._reader, 1)[0] in _ENDS:
                return
            self.on_other()

    def await_end(self, announce: Callable[[], None], pause: float) -> None:
        """Waits until the calls have to end.

        After the first signal `announce` tells clients to send no more calls. The second signal, or
        the end of the pause, ends the wait.
        """
        self.wait()
        announce()
        self.wait(pause)

    def serve(
        self,
        main: MainThread,
        announce: Callable[[], None],
        pause: float,
        stop: Callable[[], None],
    ) -> None:
        """Serves in this thread until a signal arrives and another thread has ended the calls."""
        self.on_other = main.wake
        main.on_idle = self.restore
        self.end_in_thread(announce, pause, stop, main.close)
        main.serve()

    def end_in_thread(
        self,
        announce: Callable[[], None],
        pause: float,
        stop: Callable[[], None],
        release: Callable[[], None],
    ) -> None:
        """Like `serve`, for a main thread that serves elsewhere until `release` is called."""

        def end() -> None:
            try:
                self.await_end(announce, pause)
                stop()
            finally:
                release()

        threading.Thread(target=end, name="snakepit-signals", daemon=True).start()

    def restore(self) -> None:
        """Handles signals again that a command has reset to their defaults, as event loops do.

        A handler that a command has set stays. Must be called in the main thread.
        """
        self._handle_those_with(_DEFAULTS)

    def _handle_those_with(self, handlers: tuple[object, ...]) -> None:
        """Handles the signals that have one of these handlers now."""
        for number in _ENDS:
            if _signal.getsignal(number) in handlers:
                signal.signal(number, self._handle)
        woken = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if woken not in (-1, self._writer):
            signal.set_wakeup_fd(woken)

    def _handle(self, number: int, _frame: object) -> None:
        # An event loop that a command runs may have set a wakeup file descriptor of its own.
        woken = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if woken != self._writer:
            signal.set_wakeup_fd(woken)
            os.write(self._writer, bytes([number]))

    def _block(self) -> None:
        """Before a fork: blocks the signals until the child has handlers of its own."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _reset_in_child(self) -> None:
        """In a forked child: restores the defaults, because its signals are not the worker's."""
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        woken = signal.set_wakeup_fd(-1)
        if woken != self._writer:
            signal.set_wakeup_fd(woken)
        self._unblock()
