"""Commands that take batches."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from snakepit_bridge import Adapter, CommandError, Context, command

#: Longer than any test: a batch that waits for its time would be noticed, in milliseconds.
LONG = 60_000


@dataclass
class Step:
    """A call. Its batch ends once the file `until` exists, if it is given."""

    n: int
    until: Optional[str] = None


def cancelled(steps: list[Step], contexts: list[Context]) -> list[int]:
    return [step.n for step, context in zip(steps, contexts) if context.cancelled]


def results(steps: list[Step], contexts: list[Context]) -> list[object]:
    """Below zero a number is an error of its call, and 1000 is an error of the whole batch."""
    if any(step.n == 1000 for step in steps):
        raise RuntimeError("the whole batch")
    for step, context in zip(steps, contexts):
        if context.session_id is not None:
            context.session.setdefault("seen", []).append(step.n)
    return [
        CommandError("negative", data=step.n)
        if step.n < 0
        else {
            "square": step.n**2,
            "size": len(steps),
            "session": None if context.session_id is None else context.session["seen"],
        }
        for step, context in zip(steps, contexts)
    ]


def begin(steps: list[Step]) -> Optional[Path]:
    until = next((Path(step.until) for step in steps if step.until), None)
    if until is not None:
        until.with_suffix(".started").touch()
    return until


def make() -> Callable[..., list[object]]:
    def trio(self: Any, steps: list[Step], contexts: list[Context]) -> list[object]:
        self.seen.append([step.n for step in steps])
        until = begin(steps)
        while until is not None and not until.exists():
            gone = cancelled(steps, contexts)
            until.with_suffix(".cancelled").write_text("\n".join(map(str, gone)))
            if len(gone) == len(steps):
                break
            time.sleep(0.002)
        return results(steps, contexts)

    return trio


def make_async() -> Callable[..., Any]:
    async def trio(self: Any, steps: list[Step], contexts: list[Context]) -> list[object]:
        self.seen.append([step.n for step in steps])
        until = begin(steps)
        try:
            while until is not None and not until.exists():
                gone = cancelled(steps, contexts)
                until.with_suffix(".cancelled").write_text("\n".join(map(str, gone)))
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            assert until is not None
            until.with_suffix(".closed").touch()
            raise
        return results(steps, contexts)

    return trio


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, calls: list[dict[str, Any]]) -> Any:
        return function(self, calls)

    return call


class BatchCommands(Adapter):
    """Has many commands that do the same: how long one waits depends on what it has run before."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    for number in range(20):
        vars()[f"trio{number}"] = command(batch=3, wait_ms=LONG)(make())
        vars()[f"async_trio{number}"] = command(batch=3, wait_ms=LONG)(make_async())

    held = command(batch=3, wait_ms=20)(make())

    @command(batch=8)
    @hidden
    async def hidden(self, calls: list[dict[str, Any]]) -> list[int]:
        """Nothing tells that it is `async`, except what it returns."""
        await asyncio.sleep(0)
        return [call["n"] for call in calls]

    @command
    def pid(self) -> int:
        return os.getpid()

    @command
    def log(self) -> list[list[int]]:
        """The numbers of each batch."""
        return self.seen

    @command(batch=8, wait_ms=20)
    def wrong(self, calls: list[dict[str, Any]]) -> Any:
        returned = calls[0]["returns"]
        return {
            "a dict": {},
            "too few": [],
            "a text": "x" * len(calls),
            "an iterator": iter(calls),
            "a generator": (call for call in calls),
        }[returned]

    @command(batch=8, wait_ms=20)
    async def wrong_async(self, calls: list[dict[str, Any]]) -> Any:
        return self.wrong(calls)

    @command(batch=8, wait_ms=20)
    def unsendable(self, calls: list[dict[str, Any]]) -> list[object]:
        return [object() if call["n"] == 1 else call["n"] for call in calls]

    @command(batch=8, wait_ms=20, max_bytes=1000)
    def sized(self, text: list[str], extra: list[int]) -> list[int]:
        return [len(one) + more for one, more in zip(text, extra)]

    @command(batch=32, wait_ms=2)
    def many(self, n: list[int], fails: list[bool]) -> list[object]:
        time.sleep(0.001)
        return [
            ValueError(str(one)) if fail else {"n": one, "size": len(n)}
            for one, fail in zip(n, fails)
        ]
