"""Commands for `bench/streams.exs`."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

from snakepit_bridge import BuiltinAdapter, command


class StreamCommands(BuiltinAdapter):
    def __init__(self) -> None:
        self.progress = 0
        self.closed_at = 0.0

    @command
    def counted(self, count: int, size: int = 1) -> Generator[dict[str, Any], None, None]:
        data = "x" * size
        for index in range(count):
            self.progress = index
            yield {"index": index, "data": data}

    @command
    def endless(self) -> Generator[dict[str, int], None, None]:
        try:
            for index in itertools.count():
                self.progress = index
                yield {"index": index}
        finally:
            self.closed_at = time.time()

    @command
    async def counted_async(self, count: int) -> AsyncGenerator[dict[str, int], None]:
        for index in range(count):
            yield {"index": index}

    @command
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @command
    def state(self) -> dict[str, Any]:
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {
            "pid": os.getpid(),
            "progress": self.progress,
            "closed_at": self.closed_at,
            "resident": resident,
            "cpu": time.process_time(),
            "threads": threading.active_count(),
            "files": len(os.listdir("/proc/self/fd")),
        }
