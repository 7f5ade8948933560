"""What Snakepit does before a command runs fails once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from unittest import mock

from snakepit_bridge import Adapter, command
from snakepit_bridge._telemetry import tracing


class FailingSetup(Adapter):
    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self._fail_thread()
        self._fail_trace()

    def _fail_thread(self) -> None:
        start, failed = threading.Thread.start, threading.Event()

        def fails(thread: threading.Thread) -> None:
            if thread.name == "snakepit-command-2" and not failed.is_set():
                failed.set()
                raise RuntimeError("can't start new thread")
            start(thread)

        mock.patch.object(threading.Thread, "start", fails).start()

    def _fail_trace(self) -> None:
        attach, failed = tracing.attach, threading.Event()

        def fails(metadata: Callable[[], Mapping[str, str]]) -> None:
            if not failed.is_set():
                failed.set()
                raise ValueError("no entry points")
            attach(metadata)

        mock.patch.object(tracing, "attach", fails).start()

    @command
    def plain(self) -> int:
        return 1

    @command
    def meet(self) -> int:
        """Returns when two calls are there."""
        return self.barrier.wait()

    @command
    async def number(self) -> int:
        return 7

    def close(self) -> None:
        print("closed")
