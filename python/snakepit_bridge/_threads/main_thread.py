"""Runs functions in the main thread on behalf of other threads."""

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
    """A queue of functions that `serve` runs one after another until `close`.

    The Python handler of a signal may run in the main thread between any two steps, and may raise.
    No job may be lost then: the running job stays first in the queue until its end is recorded.
    """

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        #: Called in the main thread when the queue is empty.
        self.on_idle: Callable[[], object] = int
        self._closed = False
        self._serving: Optional[int] = None

    def serve(self) -> None:
        self._serving = threading.get_ident()
        while not (self._closed and not self._jobs):
            # A second handler may raise while the exception of the first one is handled.
            try:
                self._serve()
            except BaseException as error:
                self._interrupted(error)

    def call(self, function: Callable[[], _T]) -> _T:
        """Runs `function` in the main thread; returns its result or raises its exception."""
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
                # The traceback of the exception refers to this frame: with the job that is a cycle.
                del job
        return results[0]

    def post(self, function: Callable[[], object]) -> None:
        """Runs `function` in the main thread without waiting for it. It must not raise."""
        self._add(_Job(function))

    def wake(self) -> None:
        """Wakes the main thread, so that pending signal handlers run."""
        self._wakeups.put(None)

    def close(self) -> None:
        self._closed = True
        self.wake()

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        self.wake()

    def _serve(self) -> None:
        while not (self._closed and not self._jobs):
            try:
                self._wakeups.get()
                while self._jobs:
                    self._jobs[0].run()
                    self._jobs.popleft()
                self.on_idle()
            except BaseException as error:
                self._interrupted(error)

    def _interrupted(self, error: BaseException) -> None:
        if self._jobs and self._jobs[0].started:
            self._jobs[0].end(error)
            self._jobs.popleft()
        else:
            _log.error("a signal's handler raised %s outside of any call", shown(error))
        self.wake()


class _Job:
    __slots__ = ("ended", "error", "function", "started")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.started = False
        self.error: Optional[BaseException] = None
        #: Released when the job has ended, if a thread waits for it.
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
