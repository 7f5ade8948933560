"""Commands beside an interpreter."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from snakepit_bridge import BuiltinAdapter, Interpreter, command


class Explore(Interpreter):
    @command
    def greet(self, name: str) -> str:
        return f"Hello {name}"


class Mute(BuiltinAdapter):
    @command(name="snakepit.eval")
    def echo(
        self,
        code: str,
        bindings: dict[str, Any],  # noqa: ARG002
    ) -> Generator[dict[str, str], None, None]:
        """Prints the code, and returns no value."""
        yield {"output": code}
