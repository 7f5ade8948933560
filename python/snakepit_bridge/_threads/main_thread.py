"""Runs in the main thread what other threads hand to it."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Optional, TypeVar

from snakepit_bridge._errors.raised import shown

_T = TypeVar("_T")

_log = logging.getLogger("snakepit_bridge")


class MainThread:
    """Made anywhere; `serve` runs what is handed to it, one after another, until `close`.

    A signal's Python handler runs in the main thread between any two steps, and what it raises must
    lose no job: the one at work stays first in the queue until it is known how it ended.
    """

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        #: Called in it once there is nothing more to do for now.
        self.on_idle: Callable[[], object] = int
        self._closed = False
        self._serving: Optional[int] = None

    def serve(self) -> None:
        self._serving = threading.get_ident()
        while not (self._closed and not self._jobs):
            try:
                self._wakeups.get()
                while self._jobs:
                    self._jobs[0].run()
                    self._jobs.popleft()
                self.on_idle()
            except BaseException as error:
                self._interrupted(error)

    def call(self, function: Callable[[], _T]) -> _T:
        """What `function` returns or raises, in the main thread."""
        if threading.get_ident() == self._serving:
            return function()
        results: list[_T] = []
        job = _Job(lambda: results.append(function()))
        job.ended = threading.Lock()
        job.ended.acquire()
        self._add(job)
        job.ended.acquire()
        if job.error is not None:
            try:
                raise job.error
            finally:
                # The exception's traceback has this frame in it: with the job it would be a cycle.
                del job
        return results[0]

    def post(self, function: Callable[[], object]) -> None:
        """Has `function` run there, and does not wait for it. It must not raise."""
        self._add(_Job(function))

    def wake(self) -> None:
        """Lets the handlers of signals run that wait for the thread to do something."""
        self._wakeups.put(None)

    def close(self) -> None:
        self._closed = True
        self.wake()

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        self.wake()

    def _interrupted(self, error: BaseException) -> None:
        if self._jobs and self._jobs[0].started:
            self._jobs.popleft().end(error)
        else:
            _log.error("a signal's handler raised %s outside of any call", shown(error))
        self.wake()


class _Job:
    __slots__ = ("ended", "error", "function", "started")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.started = False
        self.error: Optional[BaseException] = None
        #: Released once the job has ended, if anybody waits for that.
        self.ended: Optional[threading.Lock] = None

    def run(self) -> None:
        self.started = True
        error: Optional[BaseException] = None
        try:
            self.function()
        except BaseException as raised:
            error = raised
        self.end(error)

    def end(self, error: Optional[BaseException]) -> None:
        if self.ended is not None and self.ended.locked():
            self.error = error
            self.ended.release()
