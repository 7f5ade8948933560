"""Commands that use what belongs to a thread."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import os
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

from snakepit_bridge import Adapter, Context, command

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def told(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


class ThreadCommands(Adapter):
    def __init__(self) -> None:
        self.made_in = threading.get_ident()
        # The connection refuses to be used in any other thread.
        self.database = sqlite3.connect(":memory:")
        self.database.execute("create table notes (note text)")
        self.local = threading.local()
        self.local.value = "of the thread"
        self.caught: list[int] = []
        self.closing = ""
        colour.set("blue")
        decimal.getcontext().prec = 50

    def close(self) -> None:
        same = threading.get_ident() == self.made_in
        self.database.close()
        if self.closing:
            told(self.closing, f"closed in the same thread: {same}")

    def where(self) -> dict[str, Any]:
        return {
            "main": threading.current_thread() is threading.main_thread(),
            "same": threading.get_ident() == self.made_in,
            "thread": threading.current_thread().name,
        }

    @command
    def thread(self) -> dict[str, Any]:
        return self.where()

    @command
    async def thread_async(self) -> dict[str, Any]:
        return self.where()

    @command
    def thread_stream(self, steps: int) -> Generator[dict[str, Any], None, None]:
        for _ in range(steps):
            yield self.where()

    @command
    def note(self, note: str) -> list[str]:
        self.database.execute("insert into notes values (?)", (note,))
        return [row[0] for row in self.database.execute("select note from notes")]

    @command
    def local_value(self) -> str:
        return str(getattr(self.local, "value", "of another thread"))

    @command
    def alarm(self) -> str:
        """How a script limits the time of an operation."""

        def late(_number: int, _frame: object) -> None:
            raise TimeoutError("too late")

        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            while True:
                time.sleep(60)
        except TimeoutError as error:
            return str(error)
        finally:
            signal.signal(signal.SIGALRM, before)

    @command
    def alarm_later(self, path: str, *, fails: bool = False) -> None:
        """Makes a handler run after the call."""

        def ring(_number: int, _frame: object) -> None:
            told(path, "rang")
            if fails:
                raise RuntimeError("rang")

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    @command
    def catch_sigterm(self, path: str) -> None:
        signal.signal(signal.SIGTERM, lambda *_: told(path, "caught SIGTERM"))

    @command
    def loop_with_handlers(self, numbers: list[int]) -> None:
        """As asyncio programs do to end in an orderly way."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in numbers:
                loop.add_signal_handler(number, int)
            await asyncio.sleep(0.001)

        asyncio.run(main())

    @command
    def own_loop(self) -> int:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(asyncio.sleep(0, 42))
        finally:
            loop.close()

    @command
    def announce_close(self, path: str) -> int:
        self.closing = path
        return os.getpid()

    @command
    def hold(self, started: str, until: str) -> str:
        told(started, "started")
        while not os.path.exists(until):
            time.sleep(0.01)
        return "held"

    @command
    def stop_by(self, how: str) -> None:
        raise {"interrupt": KeyboardInterrupt, "exit": SystemExit}[how](3)

    @command
    def variables(self, *, change: bool = False) -> dict[str, Any]:
        found = {"colour": colour.get(), "prec": decimal.getcontext().prec}
        if change:
            colour.set("red")
            decimal.getcontext().prec = 3
            decimal.setcontext(decimal.Context(prec=4))
        return found

    @command
    async def variables_async(self, *, change: bool = False) -> dict[str, Any]:
        return self.variables(change=change)

    @command
    def variables_stream(self, steps: int) -> Generator[dict[str, Any], None, None]:
        """Each step finds what the earlier ones have set."""
        for step in range(steps):
            yield {"colour": colour.get(), "prec": decimal.getcontext().prec}
            colour.set(f"red {step}")
            decimal.getcontext().prec = step + 2

    @command
    async def variables_stream_async(self, steps: int) -> AsyncGenerator[dict[str, Any], None]:
        for step in range(steps):
            yield {"colour": colour.get(), "prec": decimal.getcontext().prec}
            colour.set(f"red {step}")
            decimal.getcontext().prec = step + 2

    @command
    def errstate(self, *, change: bool = False) -> str:
        import numpy as np

        before = np.geterr()["divide"]
        if change:
            np.seterr(divide="raise")
        return str(before)

    @command
    def forked_child_is_terminated(self) -> int:
        """The signal that ends a command's child, which does not concern the worker."""
        pid = os.fork()
        if pid == 0:
            while True:
                time.sleep(60)
        os.kill(pid, signal.SIGTERM)
        return os.WTERMSIG(os.waitpid(pid, 0)[1])

    @command
    def request(self, context: Context) -> str:
        return context.request_id
