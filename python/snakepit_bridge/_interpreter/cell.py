"""A piece of code that runs in the thread of its session, and can be interrupted."""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Mapping
from typing import Any, Optional

from snakepit_bridge._errors.exits import exit_fork
from snakepit_bridge._interpreter.names import Names, add_source
from snakepit_bridge._interpreter.output import Output, current

_number = itertools.count(1).__next__


class Cell:
    """Code, what it prints, and its value."""

    def __init__(self, code: str, bindings: Mapping[str, Any], names: Names) -> None:
        self.output = Output()
        self._code = code
        self._bindings = bindings
        self._names = names
        self._context = contextvars.copy_context()
        self._value: object = None
        self._error: Optional[BaseException] = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._interrupted = False
        self._begun = False
        #: The thread of the code while it runs.
        self._thread: Optional[int] = None

    def run(self) -> None:
        """Runs the code; does not raise."""
        try:
            try:
                with self._lock:
                    if not self._interrupted:
                        self._begun = True
                        self._thread = threading.get_ident()
                if self._thread is not None:
                    self._value = self._context.run(self._execute)
            finally:
                with self._lock:
                    # No interrupt comes from now on, and one that is on its way does not arrive.
                    if self._thread is not None and self._interrupted:
                        _raise_in(self._thread, None)
                    self._thread = None
        except BaseException as error:
            exit_fork(error)
            self._error = error
        else:
            exit_fork()
        finally:
            self.output.end()
            self._ended.set()

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in the code if it runs, once; otherwise it does not start."""
        with self._lock:
            if self._interrupted:
                return
            self._interrupted = True
            if self._thread is not None:
                _raise_in(self._thread, KeyboardInterrupt)
            elif not self._begun:
                # Other code may run for long before it is this one's turn.
                self._ended.set()
        # Code that waits for its caller to read prints into the void.
        self.output.end()

    def wait(self) -> None:
        """Waits until the code has ended."""
        self._ended.wait()

    def value(self) -> object:
        """Waits for the value of the code; raises what the code has raised."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._value

    def _execute(self) -> object:
        import ast

        current.set(self.output)
        file = f"<eval {_number()}>"
        add_source(file, self._code)
        names = self._names.values
        names.update(self._bindings)
        tree = ast.parse(self._code, file)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, file, "exec", dont_inherit=True), names)
        if not isinstance(last, ast.Expr):
            return None
        value: object = eval(
            compile(ast.Expression(last.value), file, "eval", dont_inherit=True), names
        )
        return value


def _raise_in(thread: int, kind: Optional[type[BaseException]]) -> None:
    """Raises an exception in a thread before its next step, or takes back one that waits."""
    import ctypes

    given = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)
