"""The commands that the fault suite calls, in addition to those of the tests."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import subprocess
import threading
import time
from collections.abc import Generator
from typing import Any, Optional

from trouble import Trouble

from snakepit_bridge import Context, Input, ToolError, command


class Faults(Trouble):
    def __init__(self) -> None:
        super().__init__()
        # A worker that keeps starting for as long as a file exists.
        hold = os.environ.get("FAULTS_HOLD")
        while hold and os.path.exists(hold):
            time.sleep(0.01)

    @command
    def mark(self, path: str, token: int, seconds: float = 0) -> dict[str, int]:
        _mark(path, token)
        if seconds:
            time.sleep(seconds)
        return {"token": token}

    @command
    def mark_quick(self, path: str, token: int, seconds: float = 0) -> dict[str, int]:
        """For calls most of which are short: a pool counts the times of each command."""
        return self.mark(path, token, seconds)

    @command
    def mark_stream(self, path: str, token: int, count: int) -> Generator[Any, None, Any]:
        _mark(path, token)
        for index in range(count):
            yield {"index": index}
        return {"index": count}

    @command
    def mark_session(self, path: str, token: int, context: Context) -> dict[str, int]:
        _mark(path, token)
        context.session["count"] = context.session.get("count", 0) + 1
        return {"count": context.session["count"]}

    @command
    def mark_asks(
        self, path: str, token: int, tool: str, count: int, context: Context
    ) -> dict[str, Any]:
        """Asks one after another. Returns the code of the first error."""
        _mark(path, token)
        code: Optional[str] = None
        for x in range(count):
            try:
                _expect(context.call(tool, x=x), x)
            except ToolError as error:
                code = code or error.code
        return {"token": token, "code": code}

    @command
    async def mark_asks_async(
        self, path: str, token: int, tool: str, count: int, context: Context
    ) -> dict[str, Any]:
        """Asks all at once."""
        _mark(path, token)
        asks = (context.acall(tool, x=x) for x in range(count))
        answers = await asyncio.gather(*asks, return_exceptions=True)
        code: Optional[str] = None
        for x, answer in enumerate(answers):
            if isinstance(answer, ToolError):
                code = code or answer.code
            elif isinstance(answer, BaseException):
                raise answer
            else:
                _expect(answer, x)
        return {"token": token, "code": code}

    @command
    def mark_asking_stream(
        self, path: str, token: int, tool: str, count: int, context: Context
    ) -> Generator[Any, None, None]:
        _mark(path, token)
        for x in range(1, count + 1):
            yield {"index": context.call(tool, x=x)}

    @command
    def mark_input(self, path: str, token: int, rows: Input[int]) -> dict[str, int]:
        _mark(path, token)
        return {"token": token, "sum": sum(rows)}

    @command
    def mark_both_ways(self, path: str, token: int, rows: Input[int]) -> Generator[Any, None, None]:
        _mark(path, token)
        for row in rows:
            yield {"index": row}

    @command
    async def left(self) -> dict[str, int]:
        """What the worker has at this moment, without this command."""
        return {
            "pid": os.getpid(),
            "tasks": len(asyncio.all_tasks()) - 1,
            "threads": len(os.listdir("/proc/self/task")),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }

    @command
    def wait_for_file(self, started: str, until: str) -> None:
        """Waits with `select`, because a faked clock disturbs `time.sleep`."""
        with open(started, "w"):
            pass
        while not os.path.exists(until):
            select.select([], [], [], 0.01)

    @command
    def print_megabytes(self, megabytes: int) -> int:
        """Prints in a thread of its own, and returns at once."""
        self._printed = 0
        threading.Thread(target=self._print, args=(megabytes,), daemon=True).start()
        return megabytes

    def _print(self, megabytes: int) -> None:
        lines = (b"progress " + b"x" * 54 + b"\n") * 1024
        for _ in range(megabytes * 16):
            _write(2, lines)
            self._printed += len(lines)

    @command
    def printed(self) -> int:
        return self._printed

    @command
    def print_for_ever(self, started: str) -> None:
        with open(started, "w"):
            pass
        while True:
            _write(2, b"progress\n" * 100)

    @command
    def grandchildren(self) -> dict[str, Any]:
        """Starts one process in this process's group, and one that has left it."""
        started = [
            subprocess.Popen(["sleep", "600"], start_new_session=new) for new in (False, True)
        ]
        return {"group": started[0].pid, "session": started[1].pid}

    @command
    def limit_descriptors(self, count: int) -> int:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
        return soft

    @command
    def open_descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    @command
    def exhaust_memory(self, megabytes: int) -> None:
        """Allocates forever, within this much more than the current size."""
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
        limit = size + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        kept = []
        try:
            while True:
                kept.append(bytearray(8 << 20))
        finally:
            kept.clear()
            resource.setrlimit(resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS)[1:] * 2)


def _mark(path: str, token: int) -> None:
    journal = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(journal, b"%d\n" % token)
    finally:
        os.close(journal)


def _expect(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ValueError(f"a tool answered {found!r} instead of {wanted!r}")


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
