"""Commands that report their progress, and events for telemetry."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

from snakepit_bridge import Adapter, Context, command


class Reports(Adapter):
    @command
    def train(self, epochs: int, context: Context) -> int:
        for epoch in range(1, epochs + 1):
            context.progress(epoch / epochs, f"epoch {epoch}")
        return epochs

    @command
    async def train_async(self, epochs: int, context: Context) -> int:
        for epoch in range(1, epochs + 1):
            context.progress(epoch / epochs, f"epoch {epoch}")
            await asyncio.sleep(0)
        return epochs

    @command
    def train_until(self, until: str, context: Context) -> str:
        """Reports twice at once, and ends when the file exists or the call is cancelled."""
        context.progress(0, "loading")
        context.progress(0.4, "epoch 2")
        while not Path(until).exists() and not context.wait_cancelled(0.01):
            pass
        return "cancelled" if context.cancelled else "done"

    @command
    def train_in_thread(self, context: Context) -> str:
        thread = threading.Thread(target=context.progress, args=(0.5, "half"))
        thread.start()
        thread.join()
        return "done"

    @command
    def fail(self, context: Context) -> None:
        context.progress(0.1, "before")
        context.progress(0.9, "last")
        raise ValueError("it failed")

    @command
    def load(self, context: Context, file: str = "x.csv") -> int:
        context.telemetry("load", {"rows": 3, "seconds": 0.5}, {"file": file, "tags": ["a", None]})
        context.telemetry("empty", {})
        return 3

    @command
    async def load_async(self, context: Context) -> int:
        context.telemetry("load", {"rows": 3})
        return 3

    @command
    def load_parts(self, context: Context) -> Generator[int, None, None]:
        for part in range(3):
            context.telemetry("part", {"rows": part})
            yield part
        context.telemetry("end", {"rows": 3})

    @command
    async def load_parts_async(self, context: Context) -> AsyncGenerator[int, None]:
        for part in range(3):
            context.telemetry("part", {"rows": part})
            yield part

    @command
    def flood(self, count: int, context: Context) -> float:
        started = time.monotonic()
        for number in range(count):
            context.telemetry("flood", {"number": number})
        return time.monotonic() - started

    @command
    def wrong(self, what: str, context: Context) -> None:
        wrong: dict[str, Any] = {
            "name": ("", {}),
            "text": ("load", {"rows": "3"}),
            "nan": ("load", {"rows": float("nan")}),
            "object": ("load", {}, {"model": object()}),
            "large": ("load", {}, {"text": "x" * 20_000}),
        }
        if what == "fraction":
            context.progress(float("nan"))
        context.telemetry(*wrong[what])
