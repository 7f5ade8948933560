"""Tools of calls over stdin and stdout."""

from __future__ import annotations

import select
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from client import PATIENCE, Pipe, Stdio

from snakepit_bridge._values.tagged import TAG


@pytest.fixture(scope="module", params=["1", "4"])
def worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stdio]:
    options = ("--adapter", "two_way:TwoWay", "--max-concurrency", request.param)
    worker = Stdio(*options, errors=tmp_path_factory.mktemp("stdio") / "stderr")
    yield worker
    worker.close()


def answer(worker: Stdio, ask: dict[str, Any], **answer: Any) -> None:
    args = {"call_id": ask["call_id"], "ask_id": ask["ask_id"], **answer}
    worker.send("$answer", args)


def test_the_worker_says_that_it_takes_tools(worker: Stdio) -> None:
    assert worker.ask("$health")["takes_tools"] is True


@pytest.mark.parametrize("command", ["sum_of_squares", "asum_of_squares"])
def test_a_command_asks_tools(worker: Stdio, command: str) -> None:
    sent = worker.send(command, {"n": 5}, tools=["square"], max_asks=2)
    asked = 0
    while "event" in (message := worker.receive()):
        assert (message["call_id"], message["event"], message["tool"]) == (sent, "ask", "square")
        asked += 1
        answer(worker, message, value=message["args"]["x"] ** 2)
    assert (message["id"], message["result"], asked) == (sent, {"result": 30}, 5)


def test_values_go_both_ways_and_errors_are_raised(worker: Stdio) -> None:
    args = {"tool": "lookup", "args": {"id": 7, "raw": "ü"}}
    worker.send("ask", args, tools=["lookup"])
    ask = worker.receive()
    assert ask["args"] == args["args"]
    answer(worker, ask, value={"a": [1, None]})
    assert worker.receive()["result"] == {"value": {"a": [1, None]}}
    worker.send("ask", args, tools=["lookup"])
    error = {"code": "missing", "message": "no such key", "data": {"key": 7}}
    answer(worker, worker.receive(), error=error)
    assert worker.receive()["result"] == {**error, "tool": "lookup"}


@pytest.mark.parametrize("command", ["ask", "aask"])
@pytest.mark.parametrize(
    ("field", "name"), [("value", "the answer"), ("error", "the data of the error")]
)
def test_an_answer_that_cannot_be_read_fails_the_ask(
    worker: Stdio, command: str, field: str, name: str
) -> None:
    worker.send(command, {"tool": "lookup", "args": {}}, tools=["lookup"])
    # The worker has no pyarrow.
    table = {TAG: ["arrow", 0, 0]}
    error = {"code": "code", "message": "message", "data": table}
    answer(worker, worker.receive(), **{field: table if field == "value" else error})
    result = worker.receive()["result"]
    assert (result.get("code"), result.get("tool")) == ("unsendable", "lookup")
    assert result["message"].startswith(f"{name} has an Arrow table, which needs pyarrow")


def test_what_is_not_offered_is_not_asked(worker: Stdio) -> None:
    worker.send("ask", {"tool": "other", "args": {}}, tools=["lookup"])
    assert worker.receive()["result"]["code"] == "unknown_tool"
    worker.send("tools", {})
    assert worker.receive()["result"] == {"result": []}


def test_an_ask_has_a_timeout_and_its_answer_is_ignored_then(worker: Stdio) -> None:
    worker.send("ask", {"tool": "wait", "args": {}, "timeout": 0.01}, tools=["wait"])
    ask, withdrawn, response = (worker.receive() for _ in range(3))
    assert ask["timeout_us"] == 10_000
    assert (withdrawn["event"], withdrawn["ask_id"]) == ("withdraw", ask["ask_id"])
    assert response["result"]["code"] == "timeout"
    answer(worker, ask, value=1)
    assert worker.ask("plain", n=3) == {"result": 3}


@pytest.mark.parametrize(
    ("command", "expected"),
    [("blocks", "CallCancelledError True"), ("ablocks", "CancelledError True")],
)
def test_a_cancelled_command_waits_no_longer(
    worker: Stdio, tmp_path: Path, command: str, expected: str
) -> None:
    pipe = Pipe(tmp_path / "end")
    sent = worker.send(command, {"pipe": pipe.path}, tools=["wait"])
    assert worker.receive()["event"] == "ask"
    cancel = worker.send("$cancel", {"id": sent})
    ends: dict[int, Any] = {}
    while ends.keys() != {sent, cancel}:
        message = worker.receive()
        # An async command may withdraw its ask before it learns why it was cancelled.
        if message.get("event") != "withdraw":
            ends[message["id"]] = message
    assert pipe.line() == expected
    assert ends[sent]["error_detail"]["reason"] == "cancelled"
    pipe.close()


@pytest.mark.parametrize("command", ["leaves_a_thread", "aleaves_a_task"])
def test_what_a_command_leaves_behind_waits_for_nothing(
    worker: Stdio, tmp_path: Path, command: str
) -> None:
    ends, pipe = Pipe(tmp_path / "ends"), Pipe(tmp_path / "pipe")
    worker.send(command, {"ends": ends.path, "pipe": pipe.path}, tools=["wait"])
    assert worker.receive()["event"] == "ask"
    ends.send("end")
    assert worker.receive()["result"] == {"result": None}
    expected = "the tool 'wait' failed: closed: the call has ended"
    assert [pipe.line(), pipe.line()] == [expected, expected]
    ends.close()
    pipe.close()


@pytest.mark.parametrize("command", ["asks_with_an_object", "aasks_with_an_object"])
def test_arguments_that_cannot_be_sent_raise_a_type_error(worker: Stdio, command: str) -> None:
    worker.send(command, {}, tools=["lookup"])
    message = worker.receive()["result"]["result"]
    assert message.startswith("args.it is of type object, which cannot be sent")


def test_a_message_is_complete_although_a_signals_handler_raises(tmp_path: Path) -> None:
    # The command runs in the main thread, as handlers do.
    worker = Stdio("--adapter", "two_way:TwoWay", errors=tmp_path / "stderr")
    pipe = Pipe(tmp_path / "rang")
    with closing(worker), closing(pipe):
        sent = worker.send("rings_while_it_asks", {"pipe": pipe.path}, tools=["wait"])
        assert worker.process.stdout is not None
        # It is writing the ask, which is larger than what waits for this end.
        assert select.select([worker.process.stdout], [], [], PATIENCE)[0]
        worker.process.send_signal(signal.SIGALRM)
        assert pipe.line() == "it rang"
        ask, response = worker.receive(), worker.receive()
        assert (ask["tool"], len(ask["args"]["text"])) == ("wait", 1 << 20)
        assert (response["id"], response["result"]) == (sent, {"result": "it rang"})
