"""The built-in commands, which an adapter gets by deriving from `BuiltinAdapter`."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Optional

from snakepit_bridge._commands.adapter import Adapter, command
from snakepit_bridge._commands.context import Context

_OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
}


class BuiltinAdapter(Adapter):
    """Commands for trying out a pool; derive from it to add commands of your own."""

    @command
    def ping(self, context: Context) -> dict[str, Any]:
        """Replies with the status "ok"."""
        return {"status": "ok", "worker_id": context.worker_id, "timestamp": time.time()}

    @command
    def echo(self, /, **args: Any) -> dict[str, Any]:
        """Returns its arguments."""
        return args

    @command
    def compute(self, operation: str, a: float, b: float) -> dict[str, Any]:
        """Computes `a` and `b` with `operation`: add, subtract, multiply or divide."""
        function = _OPERATIONS.get(operation)
        if function is None:
            known = ", ".join(_OPERATIONS)
            raise ValueError(f"expected operation to be one of {known}, got {operation!r}")
        return {"result": function(a, b)}

    @command
    def info(self, context: Context) -> dict[str, Any]:
        """Describes the worker and lists its commands."""
        from snakepit_bridge._commands.registry import Registry
        from snakepit_bridge._commands.system_info import system_info
        from snakepit_bridge._version import __version__

        return {
            "worker_id": context.worker_id,
            "adapter": f"{type(self).__module__}:{type(self).__qualname__}",
            "version": __version__,
            "commands": list(Registry(self)),
            "system": system_info(),
        }

    @command
    def ping_stream(
        self, context: Context, count: int = 3, interval: float = 0
    ) -> Generator[dict[str, Any], None, Optional[dict[str, Any]]]:
        """Yields `count` chunks, `interval` seconds apart; the last one is final."""
        for index in range(count):
            if index and interval and context.wait_cancelled(interval):
                return None
            chunk = {"message": f"ping {index + 1}", "index": index, "timestamp": time.time()}
            if index == count - 1:
                return chunk
            yield chunk
        return None
