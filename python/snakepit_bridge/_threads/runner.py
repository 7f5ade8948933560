"""Admits calls: at most `max_concurrency` run at once, the others wait in order of arrival."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable
from typing import Any, Optional, TypeVar

from snakepit_bridge._commands.call import Call
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._threads.main_thread import MainThread

_T = TypeVar("_T")

#: The number of cancelled calls whose handler exit a runner remembers.
ENDS_KEPT = 1024
#: Of how many calls the progress is reported.
MAX_PROGRESS = 100


class Runner:
    """Safe to use from any thread. `enter` and `leave` are called by the call's own thread."""

    def __init__(self, max_concurrency: int, main: Optional[MainThread] = None) -> None:
        #: Runs synchronous commands if only one may run at a time.
        self._main = main if max_concurrency == 1 else None
        self.handled = 0
        self.failed = 0
        self._changed = threading.Condition(threading.Lock())
        self._free = max_concurrency
        self._waiting: list[tuple[int, Call]] = []
        self._present: set[Call] = set()
        self._watchers = 0
        self._ends: dict[int, str] = {}

    def enter(self, call: Call) -> None:
        """Waits until the call may run; raises a `CallError` if it is cancelled first."""
        with self._changed:
            if call.context.cancelled:
                raise cancelled()
            self._present.add(call)
            if self._free:
                self._free -= 1
                call.started = True
                return
            call.admission = threading.Lock()
            call.admission.acquire()
            bisect.insort(self._waiting, (call.order, call))
        call.admission.acquire()
        if not call.started:
            raise cancelled()

    def run(self, call: Call, step: Callable[[], _T]) -> _T:
        """Runs a step of an admitted call, in the main thread or in this one."""
        if self._main is None or call.command.is_async:
            return step()
        return self._main.call(step)

    def leave(self, call: Call, *, failed: bool) -> None:
        """Counts a call that has entered, or was cancelled first, and admits the next one."""
        with self._changed:
            self.handled += 1
            # What its caller has cancelled has not failed.
            self.failed += failed and not call.context.cancelled
            self._present.discard(call)
            call.ended = True
            if call.context.cancelled and call.call_id:
                self._remember_end(call)
            if call.started:
                self._admit_next()
            if self._watchers:
                self._changed.notify_all()

    def count_refused(self) -> None:
        """Counts a call that was refused before it could enter."""
        with self._changed:
            self.handled += 1
            self.failed += 1

    def cancel(self, call: Call) -> None:
        """Cancels a call; if it has not started, it never does.

        Ignores a call that has ended: transports call this at the end of every call.
        """
        if call.ended:
            return
        call.context._cancel()  # noqa: SLF001 (not for users)
        with self._changed:
            if call.admission is not None and not call.started and call in self._present:
                self._present.discard(call)
                self._waiting.remove((call.order, call))
                call.admission.release()
        if call.interrupt is not None:
            call.interrupt()

    def wait_idle(
        self,
        call_id: Optional[int],
        timeout: Optional[float],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Waits until the call, or every call if None, has ended; returns whether it has.

        When `cancelled` becomes true, `wake` must be called.
        """
        with self._changed:
            self._watchers += 1
            try:
                self._changed.wait_for(
                    lambda: not self._is_present(call_id) or cancelled(), timeout
                )
            finally:
                self._watchers -= 1
            return not self._is_present(call_id)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def handler_exit(self, call_id: int) -> str:
        """Returns how a cancelled call ended: "stopped" by itself or "closed"; "" if unknown."""
        with self._changed:
            return self._ends.get(call_id, "")

    def running_call_ids(self) -> list[int]:
        with self._changed:
            return [call.call_id for call in self._present if call.started and call.call_id]

    def progress(self) -> list[dict[str, Any]]:
        """Returns the progress of the running calls that have reported one, as `CallProgress`."""
        with self._changed:
            calls = [call for call in self._present if call.context._progress is not None]  # noqa: SLF001
        return [_progress_of(call) for call in calls[:MAX_PROGRESS]]

    def in_flight(self) -> int:
        """Returns the number of calls that run or wait."""
        with self._changed:
            return len(self._present)

    def _remember_end(self, call: Call) -> None:
        self._ends[call.call_id] = "closed" if call.closed else "stopped"
        if len(self._ends) > ENDS_KEPT:
            del self._ends[next(iter(self._ends))]

    def _is_present(self, call_id: Optional[int]) -> bool:
        if call_id is None:
            return bool(self._present)
        return any(call.call_id == call_id for call in self._present)

    def _admit_next(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        _, call = self._waiting.pop(0)
        call.started = True
        if call.admission is not None:
            call.admission.release()


def _progress_of(call: Call) -> dict[str, Any]:
    fraction, message = call.context._progress or (0.0, "")  # noqa: SLF001
    return {
        "command": call.command.name,
        "request_id": call.context.request_id,
        "progress": {"fraction": fraction, "message": message},
    }


def cancelled() -> CallError:
    return CallError("cancelled", "the call was cancelled")
