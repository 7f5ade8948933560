"""The adapter whose callers send code, for `Snakepit.eval/3`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from snakepit_bridge._commands.adapter import Adapter, command
from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.sessions import Session
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._interpreter import output
from snakepit_bridge._interpreter.cell import Cell
from snakepit_bridge._interpreter.names import Names

#: The key of a session's dict under which its names are kept.
_NAMES = "__snakepit_names__"


class Interpreter(Adapter):
    """Runs the code that its callers send, for `Snakepit.eval/3`: for notebooks and for exploring.

    A pool runs code only if its `class:` is this one, or derives from it. Whoever may call such a
    pool may do anything that its workers may do.
    """

    def start(self) -> None:
        """Sends what code prints to its caller. A subclass with a `start` calls this one."""
        output.install()

    def close(self) -> None:
        """Undoes `start`. A subclass with a `close` calls this one."""
        output.remove()

    def session_ended(self, session_id: str, session: Session) -> None:  # noqa: ARG002
        """Drops the names of the session. A subclass with a `session_ended` calls this one."""
        names = session.pop(_NAMES, None)
        if names is not None:
            names.close()

    @command(name="snakepit.eval")
    def evaluate(
        self, code: str, bindings: dict[str, Any], context: Context
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Runs code with these names, and yields what it prints; returns its value.

        The value is that of the last expression if the last statement is one, otherwise None.
        Names are kept for the calls of a session. The code runs in a thread of its session; when
        the call is cancelled, `KeyboardInterrupt` is raised in it.
        """
        for name in bindings:
            if not name.isidentifier():
                raise CallError(
                    "invalid_args", f"expected bindings with names of Python, got {name!r}"
                )
        in_session = context.session_id is not None
        names = self._names(context) if in_session else Names()
        cell = Cell(code, bindings, names)
        context.on_cancel(cell.interrupt)
        names.run(cell)
        try:
            while True:
                text = cell.output.read()
                if not text:
                    break
                yield {"output": text}
            return {"value": cell.value()}
        finally:
            cell.interrupt()
            cell.wait()
            if not in_session:
                names.close()

    def _names(self, context: Context) -> Names:
        with context.session.lock:
            if _NAMES not in context.session:
                context.session[_NAMES] = Names()
            names: Names = context.session[_NAMES]
            return names
