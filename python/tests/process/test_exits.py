"""What ends a worker, and what must not end it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from client import FREE_THREADED, PATIENCE, Client, Pipe
from conftest import Start

from snakepit_bridge._telemetry.reports import TAKES_PROGRESS, TAKES_TELEMETRY

MakePipe = Callable[[str], Pipe]

#: How often workers start and stop in a row.
STARTS = int(os.environ.get("SNAKEPIT_STARTS", "6"))


@pytest.mark.parametrize("name", ["fail", "fail_async"])
@pytest.mark.parametrize(
    ("how", "kind"), [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt")]
)
def test_a_command_that_exits_fails_only_its_call(
    client: Client, name: str, how: str, kind: str
) -> None:
    assert client.error(name, how=how).type == kind
    assert client.result("add_async", a=1) == client.result("add", a=1) == {"result": 1}


def test_an_exception_in_a_commands_own_thread_is_printed(start: Start) -> None:
    worker = start()
    with closing(Client(worker.address())) as client:
        assert client.execute("fail_in_a_thread").success
        assert "ValueError: no such value" in worker.expect("ValueError")
        assert client.result("add", a=1) == {"result": 1}


@pytest.mark.parametrize("name", ["exit_in_a_task", "exit_in_a_callback"])
def test_an_exit_outside_a_call_is_logged_and_the_event_loop_continues(
    start: Start, name: str
) -> None:
    worker = start()
    with closing(Client(worker.address())) as client:
        assert client.execute(name).success
        assert "outside of any call" in worker.expect("SystemExit(3) was raised")
        assert client.result("add_async", a=1) == {"result": 1}
        assert len(client.chunks("count_async", to=3)) == 3
    assert worker.stop() == 0


@pytest.mark.skipif(sys.version_info < (3, 10), reason="it cannot make a signal pend")
@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_handler_that_raises_when_the_command_has_returned_fails_its_call(start: Start) -> None:
    with closing(Client(start().address())) as client:
        assert client.error("end_in_a_signal").type == "ZeroDivisionError"
        assert client.result("add", a=1) == {"result": 1}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="it cannot make a signal pend")
@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_handler_that_raises_keeps_no_function_from_running(start: Start, pipe: MakePipe) -> None:
    worker, ran = start(), pipe("ran")
    with closing(Client(worker.address())) as client:
        assert client.execute("post_behind_a_signal", pipe=ran.path).success
        assert ran.line() == "ran"
        assert "ZeroDivisionError" in worker.expect("a signal's handler raised")


# grpcio itself crashes a forked child.
forks = pytest.mark.parametrize("server", ["native"], indirect=True)


@forks
@pytest.mark.parametrize("name", ["fork", "fork_async"])
def test_a_forked_child_answers_no_call(client: Client, name: str) -> None:
    assert client.result(name) == {"result": 0}
    assert client.result("add", a=1) == {"result": 1}


@forks
def test_a_forked_child_may_exit_on_its_own(client: Client) -> None:
    assert client.result("fork", code=7) == {"result": 7}
    assert client.result("add", a=1) == {"result": 1}


@forks
def test_a_forked_child_cannot_report_to_the_caller(client: Client) -> None:
    takes = TAKES_TELEMETRY + TAKES_PROGRESS
    for takes_events, code in ((takes, 2), (0, 0)):
        response = client.begin("report_from_fork", {}, takes_events=takes_events).result()
        assert response.result == {"result": b"%d" % code}
    assert client.result("add", a=1) == {"result": 1}


@forks
def test_a_child_forked_in_a_stream_sends_nothing(client: Client) -> None:
    chunks = client.chunks("fork_stream")
    assert [chunk.chunk["result"] for chunk in chunks] == [b"1", b"0", b"0"]
    assert [chunk.is_final for chunk in chunks] == [False, False, True]
    assert client.result("add", a=1) == {"result": 1}


def test_commands_may_start_other_processes(client: Client) -> None:
    running = [client.begin(name, {}) for name in ("run_another_python", "spawn")]
    assert [call.result().result for call in running] == [{"result": b'"42\\n"'}, {"result": b"42"}]
    assert client.result("add", a=1) == {"result": 1}


def test_the_end_of_stdin_kills_a_worker_whose_command_holds_pythons_lock(
    start: Start, pipe: MakePipe
) -> None:
    worker = start()
    started = pipe("started")
    with closing(Client(worker.address())) as client:
        client.begin("hold_the_gil", {"started": started.path})
        assert started.line() == "started"
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.ended() == -signal.SIGKILL


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_worker_starts_and_ends_many_times_in_a_row(start: Start, pipe: MakePipe) -> None:
    finished = pipe("finally")
    for _ in range(STARTS):
        worker = start("--max-concurrency", "3")
        with closing(Client(worker.address())) as client:
            assert client.result("add", a=1) == client.result("add_async", a=1) == {"result": 1}
            streams = [
                client.stream(n, {"pipe": finished.path}) for n in ("endless", "endless_async")
            ]
            for stream in streams:
                next(stream)
                stream.cancel()
            assert [finished.line(), finished.line()] == ["finally", "finally"]
            assert worker.stop() == 0
        assert list(worker.lines()) == ["closed the adapter"]


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_free_threaded_python_stays_free_threaded(client: Client) -> None:
    assert client.result("the_gil_is_on") == {"result": not FREE_THREADED}


@pytest.mark.skipif(FREE_THREADED, reason="there is no lock to hold")
@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_health_distinguishes_a_stuck_worker_from_a_busy_one(start: Start, pipe: MakePipe) -> None:
    started = pipe("started")
    with closing(Client(start("--max-concurrency", "2").address())) as client:
        busy = client.begin("burn", {"started": started.path})
        assert started.line() == "started"
        not_stuck, deadline = 0, time.monotonic() + PATIENCE
        # On a busy machine all of its threads may have waited for a while.
        while not_stuck < 10:
            not_stuck += client.health().python_stuck_ms < 1000
            assert time.monotonic() < deadline
        busy.cancel()
        client.wait_for_calls(0)
        client.begin("hold_the_gil", {"started": started.path})
        assert started.line() == "started"
        while (health := client.health()).python_stuck_ms < 1000:
            assert health.healthy
        assert health.in_flight == 1
        assert client.info(include_stats=True).stats.python_stuck_ms >= 1000
