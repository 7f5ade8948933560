"""Commands for replicas; what they tell goes to a file."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

from snakepit_bridge import BuiltinAdapter, Context, command


def tell(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


class Commands(BuiltinAdapter):
    def __init__(self, model: str = "none", closed: str = "") -> None:
        self.model = model
        self.closed = closed

    def close(self) -> None:
        if self.closed:
            tell(self.closed, "closed")

    @command
    def about(self, context: Context) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "model": self.model,
            "revision": os.environ.get("REVISION", ""),
            "remaining": context.remaining(),
            "metadata": dict(context.metadata),
        }

    @command
    def remember(self, context: Context) -> dict[str, int]:
        calls = context.session.setdefault("calls", [])
        calls.append(1)
        return {"calls": len(calls), "pid": os.getpid()}

    @command
    def wait(self, path: str, seconds: float, context: Context) -> bool:
        """Waits until the call is cancelled, or `seconds`."""
        tell(path, "waits")
        cancelled = context.wait_cancelled(seconds)
        tell(path, "cancelled" if cancelled else "ended")
        return cancelled

    @command
    def numbers(
        self, to: int, context: Context, path: str = "", size: int = 0, every: float = 0.0
    ) -> Generator[dict[str, Any], None, None]:
        number = -1
        try:
            for number in range(to):
                if every and context.wait_cancelled(every):
                    return
                yield {
                    "number": number,
                    "pid": os.getpid(),
                    **({"data": b"x" * size} if size else {}),
                }
        finally:
            if path:
                tell(path, f"closed at {number}")

    @command
    def steps(self, context: Context) -> str:
        context.progress(0.5, "half")
        return "done"

    @command
    def fail(self) -> None:
        raise ValueError("no good")

    @command
    def die(self, path: str) -> None:
        tell(path, "dies")
        os._exit(3)
