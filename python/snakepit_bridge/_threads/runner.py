"""Admits calls: at most `max_concurrency` run at once, the others wait in order of arrival.

Calls of a command that takes batches gather meanwhile; a batch counts as one call.
"""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Optional, TypeVar, Union

from snakepit_bridge._commands.call import Batch, Call, History
from snakepit_bridge._commands.registry import Command
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._threads.main_thread import MainThread

if TYPE_CHECKING:
    from concurrent.futures import Executor

_T = TypeVar("_T")

#: The number of cancelled calls whose handler exit a runner remembers.
ENDS_KEPT = 1024
#: Of how many calls the progress is reported.
MAX_PROGRESS = 100


class Runner:
    """Safe to use from any thread. `enter` and `leave` are called by the call's own thread."""

    def __init__(
        self,
        max_concurrency: int,
        main: Optional[MainThread] = None,
        max_queue: float = math.inf,
    ) -> None:
        #: Runs synchronous commands if only one may run at a time.
        self._main = main if max_concurrency == 1 else None
        self.handled = 0
        self.failed = 0
        self._changed = threading.Condition(threading.Lock())
        self._free = max_concurrency
        self._max_queue = max_queue
        self._waiting: list[tuple[int, Union[Call, Batch]]] = []
        self._histories: dict[Command, History] = {}
        self._batches: dict[Call, Batch] = {}
        self._batch_threads = _BatchThreads(max_concurrency)
        self._present: set[Call] = set()
        self._watchers = 0
        self._ends: dict[int, str] = {}

    def enter(self, call: Call) -> None:
        """Waits until the call may run.

        Raises a `CallError` if it is cancelled first, or if the queue is full.
        """
        with self._changed:
            if call.context.cancelled:
                raise cancelled()
            if self._is_full():
                raise self._full()
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

    def gather(self, calls: Iterable[Call], run: Callable[[Batch], None]) -> None:
        """Enters calls of commands that take batches, all at once; `wait` waits for each.

        `run` serves a batch; it calls `answer` for each of its calls, and must not raise.
        """
        with self._changed:
            for call in calls:
                if call.context.cancelled:
                    call.answer = cancelled()
                    continue
                if self._is_full():
                    call.answer = self._full()
                    continue
                self._present.add(call)
                call.admission = threading.Lock()
                call.admission.acquire()
                self._batches[call] = self._join(call, run)
            self._admit()

    def wait(self, call: Call) -> Union[bytes, CallError]:
        """Waits for the message that answers a call, or for its error."""
        while call.answer is None:
            assert call.admission is not None
            if not call.admission.acquire(timeout=self._patience(call)):
                with self._changed:
                    self._admit()
        # The traceback of an error refers to the call: together they would be a cycle.
        answer, call.answer, call.encode = call.answer, None, None
        return answer

    def answer(self, batch: Batch, call: Call, answer: Union[bytes, CallError]) -> None:
        """Answers a call of a batch that has started, unless it has left."""
        with self._changed:
            if call in batch.calls:
                batch.calls.remove(call)
                self._answer(call, answer)

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
            if self._batches.pop(call, None) is None and call.started:
                self._slot_is_free()
            if self._watchers:
                self._changed.notify_all()
        if call.conversation is not None:
            call.conversation.end("finished")

    def count_refused(self) -> None:
        """Counts a call that was refused before it could enter."""
        with self._changed:
            self.handled += 1
            self.failed += 1

    def cancel(self, call: Call) -> None:
        """Cancels a call; if it has not started, it never does.

        The command of a call that has ended does not notice: transports call this at the end of
        every call.
        """
        if not call.ended:
            call.context._cancel()  # noqa: SLF001 (not for users)
            if call.command.batching is not None:
                self._cancel_in_batch(call)
            else:
                self._cancel_alone(call)
        # The task of an `async` command was cancelled before: its waits end by that.
        if call.conversation is not None:
            call.conversation.end("cancelled")

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

    def close(self) -> None:
        """Ends the threads for batches, after the last call."""
        self._batch_threads.close()

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

    def arrived(self) -> int:
        """Returns the number of calls that have arrived so far."""
        with self._changed:
            return self.handled + len(self._present)

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

    def _is_full(self) -> bool:
        """Whether no further call may wait. Calls that gather beside a free slot do not count."""
        if self._free or (len(self._waiting) < self._max_queue and not self._batches):
            return False
        waiting = (len(each.calls) if isinstance(each, Batch) else 1 for _, each in self._waiting)
        return sum(waiting) >= self._max_queue

    def _full(self) -> CallError:
        return CallError(
            "pool_saturated",
            f"the worker is busy and its queue is full: {self._max_queue} calls wait "
            "(--max-queue); try again later",
        )

    def _admit(self) -> None:
        """Starts what is ready, in order of arrival, while there are free slots."""
        index = 0
        while self._free and index < len(self._waiting):
            waiting = self._waiting[index][1]
            if isinstance(waiting, Batch) and not self._is_due(waiting):
                index += 1
                continue
            del self._waiting[index]
            self._free -= 1
            if isinstance(waiting, Batch):
                self._start(waiting)
            else:
                waiting.started = True
                if waiting.admission is not None:
                    waiting.admission.release()

    def _join(self, call: Call, run: Callable[[Batch], None]) -> Batch:
        now = time.monotonic()
        for _, batch in reversed(self._waiting):
            if isinstance(batch, Batch) and batch.command is call.command:
                if batch.add(call, now):
                    return batch
                break
        limits = call.command.batching
        assert limits is not None
        batch = Batch(call.command, limits, run)
        batch.add(call, now)
        bisect.insort(self._waiting, (call.order, batch))
        return batch

    def _is_due(self, batch: Batch) -> bool:
        return batch.due(self._history(batch.command)) <= time.monotonic()

    def _history(self, command: Command) -> History:
        return self._histories.setdefault(command, History())

    def _patience(self, call: Call) -> float:
        """How long a call waits for its answer. The first call of a batch starts that in time."""
        with self._changed:
            batch = self._batches[call]
            if batch.started or not self._free or not batch.calls or batch.calls[0] is not call:
                return -1
            return max(0.0, batch.due(self._history(batch.command)) - time.monotonic())

    def _start(self, batch: Batch) -> None:
        batch.start(time.monotonic())
        self._history(batch.command).running += 1
        if self._main is None or batch.command.is_async:
            self._batch_threads.run(lambda: self._run(batch))
        else:
            self._main.post(lambda: self._run(batch))

    def _run(self, batch: Batch) -> None:
        try:
            batch.run(batch)
        finally:
            with self._changed:
                self._batch_ended(batch)

    def _batch_ended(self, batch: Batch) -> None:
        history, now = self._history(batch.command), time.monotonic()
        history.running -= 1
        history.ended, history.calls = now, batch.size
        for _, waiting in self._waiting:
            if isinstance(waiting, Batch) and waiting.command is batch.command:
                history.calls += len(waiting.calls)
                if not self._free:
                    waiting.wait_from(now)
        self._slot_is_free()

    def _slot_is_free(self) -> None:
        self._free += 1
        self._admit()
        if self._free:
            # The first call of each batch learns how long to wait now.
            for _, waiting in self._waiting:
                if isinstance(waiting, Batch):
                    _wake(waiting.calls[0])

    def _answer(self, call: Call, answer: Union[bytes, CallError]) -> None:
        call.answer = answer
        _wake(call)

    def _cancel_alone(self, call: Call) -> None:
        with self._changed:
            if call.admission is not None and not call.started and call in self._present:
                self._present.discard(call)
                self._waiting.remove((call.order, call))
                call.admission.release()
        if call.interrupt is not None:
            call.interrupt()

    def _cancel_in_batch(self, call: Call) -> None:
        with self._changed:
            batch = self._batches.get(call)
            if batch is None or call not in batch.calls:
                return
            runs_on = batch.started and all(each.context.cancelled for each in batch.calls)
            if not runs_on:
                self._leave_batch(batch, call)
        if runs_on:
            batch.interrupt()

    def _leave_batch(self, batch: Batch, call: Call) -> None:
        was_first = batch.calls[0] is call
        batch.remove(call)
        if not batch.started and not batch.calls:
            self._waiting = [entry for entry in self._waiting if entry[1] is not batch]
        elif not batch.started and was_first:
            _wake(batch.calls[0])
        self._answer(call, cancelled())


def _wake(call: Call) -> None:
    """Wakes the thread that waits for a call's admission. The runner's lock must be held."""
    if call.admission is not None and call.admission.locked():
        call.admission.release()


class _BatchThreads:
    """Threads for batches that run neither in the main thread nor in that of a call."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._executor: Optional[Executor] = None

    def run(self, function: Callable[[], None]) -> None:
        if self._executor is None:
            # Imported only where there are batches.
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(self._most, "snakepit-batch")
        self._executor.submit(function)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False)


def _progress_of(call: Call) -> dict[str, Any]:
    fraction, message = call.context._progress or (0.0, "")  # noqa: SLF001
    return {
        "command": call.command.name,
        "request_id": call.context.request_id,
        "progress": {"fraction": fraction, "message": message},
    }


def cancelled() -> CallError:
    return CallError("cancelled", "the call was cancelled")
