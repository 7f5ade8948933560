"""Commands for `bench/two_way.exs`."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Generator
from typing import Any

from snakepit_bridge import Adapter, Context, Input, command


class TwoWayCommands(Adapter):
    def __init__(self) -> None:
        self.closed_at = 0.0

    @command
    def same(self, value: int) -> int:
        return value

    @command
    def asks(self, count: int, context: Context) -> int:
        return sum(context.call("same", value=value) for value in range(count))

    @command
    def round_trip(self, count: int, context: Context) -> float:
        """Returns the median time of an ask in microseconds."""
        times = []
        for value in range(count):
            began = time.perf_counter()
            context.call("same", value=value)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e6

    @command
    async def asks_async(self, count: int, context: Context) -> int:
        total = 0
        for value in range(count):
            total += await context.acall("same", value=value)
        return total

    @command
    def counted(self, count: int) -> Generator[dict[str, int], None, None]:
        for index in range(count):
            yield {"index": index}

    @command
    def count(self, rows: Input[dict[str, int]]) -> int:
        return sum(1 for _ in rows)

    @command
    def echo(self, rows: Input[int]) -> Generator[int, None, None]:
        try:
            yield from rows
            yield from itertools.count()
        finally:
            self.closed_at = time.time()

    @command
    def state(self) -> dict[str, Any]:
        """How often its threads have waited, in how much CPU time, and when `echo` was closed."""
        return {
            "pid": os.getpid(),
            "closed_at": self.closed_at,
            "cpu": time.process_time(),
            "waits": sum(_waits(thread) for thread in os.listdir("/proc/self/task")),
        }


def _waits(thread: str) -> int:
    with open(f"/proc/self/task/{thread}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary"))
