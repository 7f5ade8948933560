"""Commands that do what can go wrong, for the Elixir tests."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, Optional
from weakref import WeakValueDictionary

from snakepit_bridge import BuiltinAdapter, Context, Session, ToolError, command


class Trouble(BuiltinAdapter):
    def __init__(self) -> None:
        self.sessions: WeakValueDictionary[Optional[str], Session] = WeakValueDictionary()

    @command
    def pid(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    @command
    def child(self) -> dict[str, int]:
        return {"pid": subprocess.Popen(["sleep", "600"]).pid}

    @command
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    @command
    async def add_async(self, a: int, b: int = 0) -> int:
        return a + b

    @command
    def ask(self, tool: str, args: dict[str, Any], context: Context) -> dict[str, Any]:
        try:
            return {"value": context.call(tool, args)}
        except ToolError as error:
            return {"code": error.code, "message": error.message, "data": error.data}

    @command
    def ask_each(self, tool: str, n: int, context: Context) -> Generator[Any, None, None]:
        for x in range(n):
            yield {"value": context.call(tool, x=x)}

    @command
    def sleep(self, seconds: float, started: Optional[str] = None) -> dict[str, Any]:
        _touch(started)
        time.sleep(seconds)
        return {}

    @command
    def hold(self, started: str, until: str) -> dict[str, int]:
        """Waits until a file exists."""
        _touch(started)
        while not Path(until).exists():
            time.sleep(0.002)
        return {"pid": os.getpid()}

    @command
    async def hold_async(self, started: str) -> None:
        """Waits until it is cancelled."""
        _touch(started)
        await asyncio.Event().wait()

    @command
    def hold_stream(self, started: str, until: str) -> Generator[dict[str, int], None, None]:
        """Yields once before a file exists, and once after."""
        yield {"index": 0}
        self.hold(started, until)
        yield {"index": 1}

    @command
    def hold_or_cancel(self, started: str, until: str, context: Context) -> bool:
        """Waits until a file exists or the call is cancelled; returns whether it was cancelled."""
        _touch(started)
        while not Path(until).exists() and not context.cancelled:
            time.sleep(0.002)
        return context.cancelled

    @command
    def note(self, path: str, text: Optional[str] = None) -> dict[str, int]:
        """Adds a line to a file."""
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{text or os.getpid()}\n")
        return {"pid": os.getpid()}

    @command
    def note_stream(self, path: str, text: str) -> Generator[dict[str, int], None, None]:
        yield self.note(path, text)

    @command
    def flaky(
        self,
        path: str,
        failures: int,
        context: Context,
        dies: bool = False,  # noqa: FBT001, FBT002
        then_sleeps: float = 0,
    ) -> dict[str, Any]:
        """Fails as often as wanted. Adds a line to a file each time."""
        ids = _noted(path, context.request_id)
        if len(ids) <= failures and dies:
            os._exit(7)
        if len(ids) <= failures:
            raise ConnectionError(f"attempt {len(ids)}")
        context.wait_cancelled(then_sleeps)
        return {"attempt": len(ids), "ids": ids}

    @command
    def flaky_stream(
        self, path: str, failures: int, delivered: int, context: Context
    ) -> Generator[dict[str, int], None, dict[str, int]]:
        """As flaky, after this many chunks. Yields once if it does not fail."""
        attempt = len(_noted(path, context.request_id))
        if attempt <= failures:
            yield from self.counted(delivered)
            raise ConnectionError(f"attempt {attempt}")
        yield {"index": 0}
        return {"attempt": attempt}

    @command
    def sleep_holding_the_gil(self, started: str) -> dict[str, Any]:
        _touch(started)
        ctypes.PyDLL(None).sleep(600)
        return {}

    @command
    def hold_the_gil(self, started: str, pipe: str) -> dict[str, int]:
        """Lets no other thread run until another process opens the named pipe."""
        _touch(started)
        libc = ctypes.PyDLL(None)
        libc.close(libc.open(os.fsencode(pipe), os.O_RDONLY))
        return {"pid": os.getpid()}

    @command
    async def hold_the_loop(self, started: str, held: str, pipe: str) -> dict[str, int]:
        """Like `hold_the_gil` for other tasks, once there is one that has not begun."""
        _touch(started)
        while len(asyncio.all_tasks()) == 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        _touch(held)
        os.close(os.open(pipe, os.O_RDONLY))
        return {"pid": os.getpid()}

    @command
    async def note_async(self, path: str) -> dict[str, int]:
        return self.note(path)

    @command
    def wait_cancelled(self, seen: str, context: Context, started: Optional[str] = None) -> bool:
        _touch(started)
        cancelled = context.wait_cancelled(600)
        _touch(seen)
        return cancelled

    @command
    def fail(self, message: str) -> None:
        raise ValueError(message)

    @command
    def die(self) -> None:
        os._exit(7)

    @command
    def counted(self, count: int) -> Generator[dict[str, int], None, None]:
        for index in range(count):
            yield {"index": index}

    @command
    async def counted_async(self, count: int) -> AsyncGenerator[dict[str, int], None]:
        for index in range(count):
            yield {"index": index}

    @command
    def endless(self, closed: str, context: Context) -> Generator[dict[str, int], None, None]:
        index = 0
        context.on_cancel(lambda: _touch(closed + ".cancelled"))
        try:
            while True:
                yield {"index": index}
                index += 1
        finally:
            _touch(closed)

    @command
    def progress(self, path: str, size: int) -> Generator[dict[str, str], None, None]:
        """Yields forever, and writes to a file how often it has."""
        with open(path, "wb", buffering=0) as file:
            for count in itertools.count(1):
                yield {"data": "x" * size}
                os.pwrite(file.fileno(), b"%20d" % count, 0)

    @command
    def halting(self, count: int, context: Context) -> Generator[dict[str, int], None, None]:
        """Yields this often, then nothing more until it is cancelled."""
        yield from self.counted(count)
        context.wait_cancelled(600)

    @command
    def fail_after(self, count: int) -> Generator[dict[str, int], None, None]:
        yield from self.counted(count)
        raise ValueError("no more")

    @command
    def noise(self, megabytes: int) -> dict[str, Any]:
        line = "x" * 1023
        for _ in range(megabytes * 1024):
            print(line)
        sys.stderr.write("from stderr\n")
        logging.getLogger("noise").error("from logging")
        return {"thread": threading.current_thread().name}

    @command
    def blob(self, size: int) -> dict[str, bytes]:
        return {"blob": b"\xff" * size}

    @command
    def tally(self, context: Context) -> dict[str, int]:
        """Counts in the session."""
        self.sessions[context.session_id] = context.session
        context.session["count"] = context.session.get("count", 0) + 1
        return {"count": context.session["count"], "pid": os.getpid()}

    @command
    def tally_stream(self, to: int, context: Context) -> Generator[dict[str, int], None, None]:
        for _ in range(to):
            yield self.tally(context)

    @command
    def hold_session(self, started: str, until: str, context: Context) -> dict[str, int]:
        """Counts in the session once a file exists."""
        _touch(started)
        while not Path(until).exists():
            context.wait_cancelled(0.01)
        return self.tally(context)

    @command
    def sessions_kept(self) -> int:
        return len(self.sessions)

    @command
    def environment(self, names: list[str]) -> list[Optional[str]]:
        return [os.environ.get(name) for name in names]

    @command
    def text(self, size: int) -> str:
        return "x" * size

    @command
    def request(self, context: Context) -> dict[str, Any]:
        return {
            "id": context.request_id,
            "session": context.session_id,
            "remaining": context.remaining(),
            "metadata": dict(context.metadata),
        }

    @command
    def request_stream(self, context: Context) -> Generator[dict[str, Any], None, None]:
        yield self.request(context)

    @command
    def say(self, text: str) -> None:
        logging.getLogger("trouble").warning(text)

    @command
    async def say_async(self, text: str) -> None:
        self.say(text)

    @command
    def say_stream(self, text: str) -> Generator[int, None, None]:
        try:
            yield 1
            self.say(text)
            yield 2
        finally:
            self.say(f"{text} at the end")


def _noted(path: str, text: str) -> list[str]:
    """Adds a line to a file, and returns all of its lines."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return Path(path).read_text(encoding="utf-8").splitlines()


def _touch(path: Optional[str]) -> None:
    """Creates a file with this process's id in it."""
    if path is not None:
        Path(f"{path}.new").write_text(str(os.getpid()))
        Path(f"{path}.new").rename(path)
