"""Commands that the tests control and observe through named pipes."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import decimal
import functools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any, Optional

from snakepit_bridge import BuiltinAdapter, Context, command


def tell(pipe: str, text: object) -> None:
    # Fails once the test has ended, in place of waiting for a reader.
    fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(f"{text}\n")


def told(pipe: str) -> str:
    # Byte by byte, because what follows the line is for others.
    with open(pipe, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(1), b"\n")).decode()


def fork() -> int:
    """Returns the exit code of a child in the worker, and 0 in the child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    return pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def raising_signal() -> Callable[[], object]:
    """Returns what has a signal pend whose handler raises; it runs no Python code itself."""
    signal.signal(signal.SIGUSR1, lambda *_: 1 / 0)
    return functools.partial(ctypes.pythonapi.PyErr_SetInterruptEx, int(signal.SIGUSR1))


def refused_in_fork(*uses: Callable[[], object]) -> int:
    """Returns how many of the uses are refused in a child in the worker."""
    parent = os.getpid()
    result = fork()
    if os.getpid() != parent:
        for use in uses:
            try:
                use()
            except RuntimeError as error:
                result += "only the worker itself" in str(error)
        os._exit(result)
    return result


async def exits() -> None:
    sys.exit(3)


class Probe(BuiltinAdapter):
    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.produced = 0

    def close(self) -> None:
        print("closed the adapter")

    @command
    def add(self, a: int, b: int = 0) -> int:
        """Adds two numbers."""
        return a + b

    @command
    def report(self, context: Context) -> str:
        context.progress(0.5, "half")
        context.telemetry("load", {"rows": 3}, {"file": "x"})
        return "reported"

    @command
    def report_stream(self, context: Context) -> Generator[int, None, None]:
        for part in range(2):
            context.telemetry("part", {"rows": part})
            yield part

    @command
    async def add_async(self, a: int, b: int = 0) -> int:
        await asyncio.sleep(0)
        return a + b

    @command
    def give(self, what: str) -> Any:
        return {
            "bytes": b"\xff\x00",
            "text": "123",
            "none": None,
            "huge": 10**5000,
            "nan": {"items": [{}, {}, {"loss": float("nan")}]},
            "object": {"items": [object()]},
            "blob": {"blob": b"\xff" * 100_000},
        }[what]

    @command
    def open_in_child(self) -> list[str]:
        """The open files of a program that inherits everything it can."""
        script = 'for file in /proc/self/fd/*; do readlink "$file"; done; true'
        return subprocess.check_output(["sh", "-c", script], close_fds=False, text=True).split()

    @command
    def type_of(self, value: object) -> str:
        return type(value).__name__

    @command
    def fail(self, how: str) -> None:
        class WeirdError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        raise {
            "value": ValueError("no such value \ud800"),
            "exit": SystemExit(3),
            "interrupt": KeyboardInterrupt(),
            "weird": WeirdError(),
            "stop": StopIteration("s"),
            "long": ValueError("x" * 1_000_000),
        }[how]

    @command
    async def fail_async(self, how: str) -> None:
        self.fail(how)

    @command
    def about(self, context: Context) -> dict[str, Any]:
        return {
            "request_id": context.request_id,
            "session_id": context.session_id,
            "worker_id": context.worker_id,
            "remaining": context.remaining(),
            "metadata": dict(context.metadata),
            "cancelled": context.cancelled,
        }

    @command
    def count_in_session(self, context: Context) -> int:
        with context.session.lock:
            context.session["count"] = context.session.get("count", 0) + 1
            count: int = context.session["count"]
        return count

    @command
    def hold_session(self, started: str, until: str, context: Context) -> int:
        session = context.session
        tell(started, "started")
        told(until)
        return len(session)

    @command
    def hold(self, started: str, until: str, note: Any = None) -> Any:
        """Occupies its place until told to continue, whatever happens to its call."""
        tell(started, "started")
        told(until)
        self.notes.append(note)
        return note

    @command
    def zeros(self, started: str, size: int) -> bytes:
        tell(started, "started")
        return bytes(size)

    @command
    async def zeros_async(self, started: str, size: int) -> bytes:
        return self.zeros(started, size)

    @command
    def note(self, note: Any) -> list[Any]:
        self.notes.append(note)
        return self.notes

    @command
    async def note_async(self, note: Any) -> list[Any]:
        return self.note(note)

    @command
    def wait(self, pipe: str, context: Context) -> None:
        context.on_cancel(lambda: self.notes.append("on_cancel"))
        tell(pipe, "started")
        tell(pipe, f"cancelled {context.wait_cancelled(600)}")

    @command
    async def wait_async(self, pipe: str) -> None:
        tell(pipe, "started")
        try:
            await asyncio.sleep(600)
        finally:
            tell(pipe, "finally")

    @command
    def count(
        self, to: int, returned: Any = None, fail_at: Optional[int] = None
    ) -> Generator[Any, None, Any]:
        for number in range(to):
            if number == fail_at:
                raise LookupError(f"at {number}")
            yield number
        return returned

    @command
    async def hold_the_loop(self, started: str, until: str) -> None:
        tell(started, "started")
        told(until)

    @command
    async def note_turns(self, name: str) -> AsyncGenerator[int, None]:
        """Awaits nothing, and yields no more chunks than a stream's buffer holds."""
        for number in range(200):
            self.notes.append(name)
            yield number

    @command
    async def count_async(
        self, to: int, fail_at: Optional[int] = None
    ) -> AsyncGenerator[int, None]:
        for number in range(to):
            if number == fail_at:
                raise LookupError(f"at {number}")
            yield number

    @command
    def endless(self, pipe: str, size: int = 10) -> Generator[dict[str, Any], None, None]:
        self.produced = 0
        try:
            while True:
                self.produced += 1
                yield {"blob": b"x" * size}
        finally:
            tell(pipe, "finally")

    @command
    async def endless_async(
        self, pipe: str, size: int = 10
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.produced = 0
        try:
            while True:
                self.produced += 1
                yield {"blob": b"x" * size}
        finally:
            tell(pipe, "finally")

    @command
    def how_many(self) -> int:
        return self.produced

    @command
    def stubborn(self, pipe: str, until: str) -> Generator[str, None, None]:
        """Takes its time to end when it is closed."""
        try:
            while True:
                yield "chunk"
        finally:
            tell(pipe, "closing")
            told(until)

    @command
    def child(self) -> int:
        return subprocess.Popen(["sleep", "600"]).pid

    @command
    def post_behind_a_signal(self, pipe: str, context: Context) -> None:
        """Has the main thread run a function as soon as the handler of a signal has raised."""
        sessions = context._sessions
        assert sessions is not None
        sessions.post(raising_signal())
        sessions.post(functools.partial(tell, pipe, "ran"))

    @command
    def end_in_a_signal(self) -> object:
        """The handler of a signal that comes last raises only once the function has returned."""
        signals: dict[str, object] = collections.defaultdict(raising_signal())
        result = decimal.Decimal(1)
        signals["one"]
        return result

    @command
    def fork(self, code: Optional[int] = None) -> int:
        parent = os.getpid()
        result = fork()
        if os.getpid() != parent and code is not None:
            sys.exit(code)
        return result

    @command
    def report_from_fork(self, context: Context) -> int:
        """Returns how often a child in the worker could not report."""
        return refused_in_fork(
            lambda: context.progress(0.5), lambda: context.telemetry("event", {"count": 1})
        )

    @command
    def fork_stream(self) -> Generator[int, None, int]:
        yield 1
        yield fork()
        return fork()

    @command
    async def fork_async(self) -> int:
        return fork()

    @command
    def run_another_python(self) -> str:
        return subprocess.check_output([sys.executable, "-c", "print(42)"], text=True)

    @command
    def spawn(self) -> int:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            result: int = pool.apply(abs, (-42,))
        return result

    @command
    def fail_in_a_thread(self) -> None:
        thread = threading.Thread(target=self.fail, args=("value",))
        thread.start()
        thread.join()

    @command
    async def exit_in_a_task(self) -> None:
        self.task = asyncio.create_task(exits())

    @command
    async def exit_in_a_callback(self) -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)

    @command
    def the_gil_is_on(self) -> bool:
        return bool(getattr(sys, "_is_gil_enabled", lambda: True)())

    @command
    def hold_the_gil(self, started: str, until: Optional[str] = None) -> None:
        """Without `until`, a named pipe, it does not end."""
        pipe = os.open(until, os.O_RDONLY) if until else None
        tell(started, "started")
        libc = ctypes.PyDLL(None)
        if pipe is None:
            libc.sleep(600)
        else:
            libc.read(pipe, ctypes.create_string_buffer(1), 1)
            os.close(pipe)

    @command
    def burn(self, started: str, context: Context) -> None:
        """Runs Python code without a pause until it is cancelled."""
        tell(started, "started")
        deadline = time.monotonic() + 600
        while not context.cancelled and time.monotonic() < deadline:
            pass

    @command
    def chatter(self, lines: int) -> None:
        for number in range(lines):
            print(f"print {number} {'p' * 80}")
            logging.getLogger("probe").warning("log %d %s", number, "w" * 80)

    @command
    def log(self) -> None:
        logger = logging.getLogger("probe")
        logger.setLevel(logging.DEBUG)
        logger.debug("a detail")
        logger.info("two\nlines")
        logger.warning("a warning")
        try:
            int("no number")
        except ValueError:
            logger.exception("an error")
        print("printed, not flushed", end="\n")

    @command
    def stdin(self) -> dict[str, Any]:
        return {"read": os.read(0, 10).decode()}

    @command
    def environment(self) -> list[str]:
        return sorted(name for name in os.environ if name.startswith("SNAKEPIT"))

    @command
    def where(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "group": os.getpgrp()}

    @command
    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()

    @command
    def terminate_from_this_thread(self) -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
