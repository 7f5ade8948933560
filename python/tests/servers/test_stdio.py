from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from client import PATIENCE, Pipe, Stdio

MakePipe = Callable[[str], Pipe]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stdio]]:
    started: list[Stdio] = []

    def start(*options: str) -> Stdio:
        started.append(Stdio(*options, errors=tmp_path / "stderr"))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_requests_are_answered(start: Callable[..., Stdio]) -> None:
    worker = start("--worker-id", "w1")
    assert worker.ask("ping")["status"] == "ok"
    assert worker.ask("echo", a=[1, {"b": None}]) == {"a": [1, {"b": None}]}
    sent = worker.send("about", {}, request_id="r", session_id="s", timeout_ms=60_000)
    about = worker.receive()
    assert about["id"] == sent
    assert about["result"]["request_id"] == "r"
    assert about["result"]["session_id"] == "s"
    assert about["result"]["worker_id"] == "w1"
    assert about["timestamp"] > 0


def test_failures_have_their_reason(start: Callable[..., Stdio]) -> None:
    worker = start()
    for command, args, reason in (
        ("no_such", {}, "unknown_command"),
        ("ping_stream", {}, "invalid_args"),
        ("compute", {"operation": "divide", "a": 1, "b": 0}, "python_error"),
    ):
        worker.send(command, args)
        response = worker.receive()
        assert not response["success"]
        assert response["error"]
        assert response["error_detail"]["reason"] == reason


def test_printed_output_goes_to_stderr(start: Callable[..., Stdio], tmp_path: Path) -> None:
    worker = start()
    worker.send("log", {})
    assert worker.receive()["success"]
    assert worker.stop() == 0
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert lines[0] == "<7>probe: a detail"
    assert "printed, not flushed" in lines


def test_a_worker_describes_itself_while_a_command_runs(
    start: Callable[..., Stdio], pipe: MakePipe
) -> None:
    worker = start()
    started, until = pipe("started"), pipe("until")
    held = worker.send("hold", {"started": started.path, "until": until.path})
    assert started.line() == "started"
    health = worker.ask("$health")
    assert health["healthy"]
    assert health["running"] == 1
    assert "echo" in worker.ask("$info")["supported_commands"]
    until.send("go")
    assert worker.receive()["id"] == held


def test_a_cancelled_call_says_how_it_ended(start: Callable[..., Stdio], pipe: MakePipe) -> None:
    worker = start("--max-concurrency", "2")
    ended = {}
    for command in ("wait", "wait_async"):
        started = pipe(command)
        call = worker.send(command, {"pipe": started.path})
        assert started.line() == "started"
        worker.send("$cancel", {"id": call})
        responses = [worker.receive(), worker.receive()]
        ended[command] = next(response for response in responses if response["id"] == call)
    assert ended["wait"]["success"]
    assert ended["wait_async"]["error_detail"]["reason"] == "cancelled"
    assert ended["wait_async"]["ended"] == "closed"


def test_a_cancellation_reaches_a_call_that_is_still_decoded(
    start: Callable[..., Stdio], pipe: MakePipe
) -> None:
    worker = start()
    large = {"large": "x" * (8 << 20)}
    call = worker.send("wait", {"pipe": pipe("wait").path}, metadata=large)
    cancel = worker.send("$cancel", {"id": call})
    assert {worker.receive()["id"], worker.receive()["id"]} == {call, cancel}


def test_the_end_of_stdin_kills_it_and_its_children(
    start: Callable[..., Stdio], tmp_path: Path
) -> None:
    worker = start()
    worker.ask("child")
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.process.wait(PATIENCE) == -signal.SIGKILL
    assert worker.process.stdout is not None
    assert worker.process.stdout.read() == b""
    assert "cannot read" not in (tmp_path / "stderr").read_text()


def test_a_worker_says_why_it_cannot_read_on(start: Callable[..., Stdio], tmp_path: Path) -> None:
    worker = start()
    assert worker.process.stdin is not None
    worker.process.stdin.write((1).to_bytes(4, "big") + b"{")
    worker.process.stdin.flush()
    assert worker.process.wait(PATIENCE) == -signal.SIGKILL
    assert "message is not valid extended JSON" in (tmp_path / "stderr").read_text()


def test_sigterm_lets_running_calls_finish(start: Callable[..., Stdio], pipe: MakePipe) -> None:
    worker = start()
    started, until = pipe("started"), pipe("until")
    held = worker.send("hold", {"started": started.path, "until": until.path})
    assert started.line() == "started"
    worker.drain()
    # It answers the call that was in transit when it announced that it is draining.
    until.send("go")
    assert worker.receive()["id"] == held
    assert worker.ask("add", a=1) == {"result": 1}
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PATIENCE) == 0
