from __future__ import annotations

import linecache
import sys
import threading
from typing import Any

import pytest
from client import PATIENCE

from snakepit_bridge import Interpreter, testing
from snakepit_bridge._interpreter.cell import Cell
from snakepit_bridge._interpreter.names import Names


def run(worker: testing.Worker, code: str, session: str | None = None, **bindings: Any) -> Any:
    args = {"code": code, "bindings": bindings}
    *printed, last = worker.stream("snakepit.eval", args, session_id=session)
    return "".join(chunk["output"] for chunk in printed), last["value"]


def test_code_prints_and_has_a_value() -> None:
    given = sys.stdout
    with testing.Worker(Interpreter) as worker:
        assert run(worker, "print(n)\nn + 1", n=1) == ("1\n", 2)
        assert run(worker, "print(1)\nprint(2, end='')") == ("1\n2", None)
    assert sys.stdout is given


def test_the_thread_of_a_session_ends_with_it() -> None:
    with testing.Worker(Interpreter) as worker:
        run(worker, "import threading\nn = threading.get_ident()", "a")
        assert run(worker, "n == threading.get_ident()", "a") == ("", True)
        with pytest.raises(NameError):
            run(worker, "n")
        assert worker.end_session("a")
    for thread in threading.enumerate():
        if thread.name == "snakepit-eval":
            thread.join(60)
            assert not thread.is_alive()


def test_the_code_that_is_kept_for_tracebacks_is_bounded() -> None:
    with testing.Worker(Interpreter) as worker:
        for _ in range(4):
            run(worker, f"# {'x' * 400_000}")
    cells = [file for file in linecache.cache if file.startswith("<eval ")]
    assert 0 < sum(len("".join(linecache.getlines(file))) for file in cells) <= 1_000_000


def test_threads_of_the_code_print_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    code = """
import threading
thread = threading.Thread(target=print, args=("elsewhere",))
thread.start()
thread.join()
"""
    with testing.Worker(Interpreter) as worker:
        output, _ = run(worker, code)
    assert "elsewhere" in output + capsys.readouterr().out


def test_code_that_has_not_begun_ends_when_it_is_interrupted() -> None:
    names, release = Names(), threading.Event()
    first = Cell("release.wait()", {"release": release}, names)
    second, third = Cell("n = 1", {}, names), Cell("'n' in globals()", {}, names)
    for cell in (first, second, third):
        names.run(cell)
    second.interrupt()
    waiting = threading.Thread(target=second.wait, daemon=True)
    waiting.start()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    release.set()
    assert first.value() is True
    assert third.value() is False
    names.close()


def test_a_halted_stream_interrupts_the_code() -> None:
    with testing.Worker(Interpreter) as worker:
        # CPython 3.11 takes an exception that is raised at a loop's end as raised just before the
        # loop, which must be within the `try`, too.
        code = "try:\n    print('x')\n    while True: print('x')\nfinally:\n    ended = True"
        args = {"code": code, "bindings": {}}
        # Each time it is interrupted at another of its steps.
        for session in map(str, range(30)):
            chunks = worker.stream("snakepit.eval", args, session_id=session)
            assert next(chunks)["output"].startswith("x\n")
            chunks.close()
            assert run(worker, "ended", session) == ("", True)
