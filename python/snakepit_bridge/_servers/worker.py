"""A worker of the grpcio and stdio servers: commands, runner, sessions, statistics."""

from __future__ import annotations

import math
import time
from typing import Any

from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._commands.sessions import Sessions
from snakepit_bridge._process.memory import resident_bytes
from snakepit_bridge._threads.main_thread import MainThread
from snakepit_bridge._threads.runner import Runner

# The start of the interpreter is not counted.
_BEGAN, _CPU_BEFORE = time.monotonic(), time.process_time()


class Worker:
    def __init__(
        self,
        registry: Registry,
        *,
        worker_id: str,
        max_concurrency: int,
        sessions: Sessions,
        max_queue: float = math.inf,
    ) -> None:
        self.worker_id = worker_id
        self.registry = registry
        #: Serves in the thread that creates the server.
        self.main = MainThread()
        self.runner = Runner(max_concurrency, self.main, max_queue)
        self.sessions = sessions
        sessions.post = self.main.post
        sessions.call = self.main.call
        self._started = time.monotonic()

    def uptime_ms(self) -> int:
        return int((time.monotonic() - self._started) * 1000)

    def stats(self) -> dict[str, Any]:
        return {
            "requests_handled": self.runner.handled,
            "requests_failed": self.runner.failed,
            "uptime_ms": self.uptime_ms(),
            "memory_usage_bytes": resident_bytes(),
            "cpu_usage_percent": _cpu_percent(),
            "active_sessions": self.sessions.count,
            "progress": self.runner.progress(),
        }


def _cpu_percent() -> float:
    """Returns the average use of one core since the worker started."""
    used = time.process_time() - _CPU_BEFORE
    return round(100.0 * used / max(time.monotonic() - _BEGAN, 0.001), 1)
