"""What commands print and log, and how they ask a terminal for input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from client import Client, Way, WorkerProcess
from conftest import Start

ADAPTER = ("--adapter", "terminal:Terminal")
ASKING = ["breakpoint", "pdb", "input", "read", "readline", "bytes", "lines", "interact"]


def test_asking_for_input_fails_and_says_what_to_do(way: Callable[..., Way]) -> None:
    worker = way(*ADAPTER)
    for how in ASKING:
        error = worker.error("ask", how=how)
        assert error["type"] == "RuntimeError", how
        assert "a worker has no terminal" in error["message"], how
        assert "debugpy.listen(5678)" in error["message"], how
    # It first warns that it cannot hide what is typed, and warnings are errors here.
    assert worker.error("ask", how="getpass")["type"] in ("RuntimeError", "getpass.GetPassWarning")
    assert worker.call("ping")[0]


@pytest.fixture
def worker(start: Start) -> WorkerProcess:
    return start(*ADAPTER)


def lines_of(worker: WorkerProcess, *commands: str) -> list[str]:
    client = Client(worker.address())
    for command in commands:
        assert client.execute(command).success, command
    client.close()
    worker.stop()
    return [line for line in worker.lines() if line]


def without_id(line: str) -> str:
    before, _, after = line.partition("\x1f")
    return before + after.partition("\x1f")[2] if after else line


def test_a_users_own_format_and_level_apply_and_lines_have_their_level(start: Start) -> None:
    worker = start(*ADAPTER)
    assert worker.expect("made") == "<6>INFO of terminal: made"
    lines = [without_id(line) for line in lines_of(worker, "log")]
    assert "<7>DEBUG of terminal: a detail" in lines
    assert "<4>WARNING of terminal: two" in lines
    assert "<4>lines" in lines


def test_lines_of_threads_are_not_mixed(worker: WorkerProcess) -> None:
    lines = lines_of(worker, "threads")
    assert "a1 a2 a3" in lines
    assert "b1 b2 b3" in lines


def test_a_progress_bar_and_log_lines_do_not_mix(worker: WorkerProcess) -> None:
    lines = [without_id(line) for line in lines_of(worker, "bar")]
    for done in (10, 20):
        assert f"{done}%|{'#' * done}" in lines
        assert f"<3>ERROR of terminal: in between {done}" in lines
    assert "100%" in lines
