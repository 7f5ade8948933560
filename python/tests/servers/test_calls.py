from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from client import PATIENCE, Client, Pipe, times

from snakepit_bridge._grpcio.relay import TimedOutError, Waiting, relay

MakePipe = Callable[[str], Pipe]


def values(chunks: list[Any]) -> list[tuple[Any, bool]]:
    return [(json.loads(chunk.chunk["result"]), chunk.is_final) for chunk in chunks]


@pytest.mark.parametrize("name", ["add", "add_async"])
def test_a_command_is_called_with_keywords(client: Client, name: str) -> None:
    before = time.time_ns()
    response = client.begin(name, {"a": 40, "b": 2}, request_id="r-7").result()
    assert response.success
    assert response.result == {"result": b"42"}
    assert response.request_id == "r-7"
    assert before <= response.timestamp <= time.time_ns()
    assert client.result(name, a=1) == {"result": 1}


def test_the_context_describes_the_call(client: Client) -> None:
    metadata = (("trace", "t1"), ("blob-bin", b"\xff"))
    options = {"session_id": "s1", "request_id": "r1", "metadata": metadata}
    call = client.begin("about", {}, timeout=600, **options)
    about = {name: json.loads(value) for name, value in call.result().result.items()}
    assert about["request_id"] == "r1"
    assert about["session_id"] == "s1"
    assert about["worker_id"] == "w1"
    assert 0 < about["remaining"] < 606
    assert about["cancelled"] is False
    assert about["metadata"]["trace"] == "t1"
    assert "blob-bin" not in about["metadata"]


def test_the_request_id_may_come_as_metadata(client: Client) -> None:
    response = client.begin("about", {}, metadata=(("x-request-id", "r2"),)).result()
    assert response.request_id == "r2"
    assert json.loads(response.result["request_id"]) == "r2"
    (chunk,) = client.stream("about", {}, metadata=(("x-request-id", "r3"),))
    assert chunk.request_id == "r3"


def test_without_a_deadline_and_a_session_the_context_has_none(client: Client) -> None:
    about = client.begin("about", {}, timeout=None).result().result
    assert about["remaining"] == about["session_id"] == b"null"


def test_timeout_ms_is_the_deadline_of_a_call_without_another(client: Client) -> None:
    about = client.begin("about", {}, timeout=None, timeout_ms=600_000).result().result
    assert 0 < json.loads(about["remaining"]) <= 600


@pytest.mark.parametrize(
    ("data", "name"), [(b"1.5", "float"), (b"plain", "str"), (b"\xff", "bytes"), (b"[]", "list")]
)
def test_arguments_arrive_by_the_plain_rules(client: Client, data: bytes, name: str) -> None:
    assert client.result("type_of", value=data) == {"result": name}


def test_results_are_sent_by_the_plain_rules(client: Client) -> None:
    assert client.execute("give", what="bytes").result == {"result": b"\xff\x00"}
    assert client.execute("give", what="text").result == {"result": b'"123"'}
    assert client.execute("give", what="none").result == {"result": b"null"}
    assert client.execute("give", what="huge").result == {"result": b"1" + b"0" * 5000}


@pytest.mark.parametrize("name", ["fail", "fail_async"])
@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("value", "ValueError", "no such value \\ud800"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("weird", "probe.Probe.fail.<locals>.WeirdError", "__str__ failed"),
    ],
)
def test_an_exception_is_the_calls_error(
    client: Client, name: str, how: str, kind: str, message: str
) -> None:
    detail = client.error(name, how=how)
    assert (detail.reason, detail.type) == ("python_error", kind)
    assert message in detail.message
    frames = re.findall(r'File ".*/(\w+\.py)"', detail.traceback)
    assert frames[0] == "probe.py"
    assert "raise {" in detail.traceback
    assert client.result("add", a=1) == {"result": 1}


def test_the_short_text_of_an_error_names_its_type(client: Client) -> None:
    assert client.execute("fail", how="value").error == "ValueError: no such value \\ud800"
    assert client.execute("fail", how="interrupt").error == "KeyboardInterrupt"


def test_a_huge_error_is_truncated(client: Client) -> None:
    detail = client.error("fail", how="long")
    assert len(detail.message) < 20_000
    assert "[...]" in detail.message


def test_stop_iteration_is_an_error_like_any_other(client: Client) -> None:
    assert client.error("fail", how="stop").type == "StopIteration"


@pytest.mark.parametrize(
    ("command", "args", "reason", "message"),
    [
        ("ad", {}, "unknown_command", "did you mean 'add'?"),
        ("add", {"b": 1}, "invalid_args", "missing a: the command is add(a: int, b: int = 0)"),
        ("add", {"a": 1, "c": 1}, "invalid_args", "unknown c: "),
        ("add", {"a": b"[" * 200 + b"]" * 200}, "invalid_args", "a is nested deeper"),
        ("count", {"to": 1}, "invalid_args", "execute_stream"),
        ("give", {"what": "nan"}, "invalid_result", "result.items[2].loss is nan"),
        ("give", {"what": "object"}, "invalid_result", "result.items[0] is of type object"),
    ],
)
def test_a_call_that_cannot_run_or_whose_result_cannot_be_sent_is_explained(
    client: Client, command: str, args: dict[str, Any], reason: str, message: str
) -> None:
    detail = client.error(command, **args)
    assert detail.reason == reason
    assert message in detail.message


def test_a_generator_yields_chunks_and_returns_the_final_one(
    client: Client,
) -> None:
    chunks = client.chunks("count", to=3, returned="end")
    assert values(chunks) == [(0, False), (1, False), (2, False), ("end", True)]
    assert [chunk.chunk_index for chunk in chunks] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["count", "count_async"])
def test_a_generator_that_returns_nothing_just_ends(client: Client, name: str) -> None:
    assert values(client.chunks(name, to=100)) == [(number, False) for number in range(100)]
    assert client.chunks(name, to=0) == []


@pytest.mark.parametrize("name", ["add", "add_async"])
def test_a_plain_command_is_a_stream_of_its_result(client: Client, name: str) -> None:
    assert values(client.chunks(name, a=2, b=3)) == [(5, True)]


@pytest.mark.parametrize("name", ["count", "count_async"])
def test_an_exception_in_a_stream_is_its_last_message(client: Client, name: str) -> None:
    *chunks, last = client.chunks(name, to=5, fail_at=2)
    assert values(chunks) == [(0, False), (1, False)]
    assert last.is_final
    assert last.error == "LookupError: at 2"
    assert last.error_detail.reason == "python_error"
    assert 'probe.py", line' in last.error_detail.traceback
    assert "/execution.py" not in last.error_detail.traceback
    assert last.chunk_index == 2


@pytest.mark.parametrize(
    ("command", "args", "reason"),
    [
        ("counts", {}, "unknown_command"),
        ("count", {}, "invalid_args"),
        ("give", {"what": "object"}, "invalid_result"),
        ("fail", {"how": "exit"}, "python_error"),
    ],
)
def test_a_stream_that_cannot_start_is_one_error(
    client: Client, command: str, args: dict[str, Any], reason: str
) -> None:
    (only,) = client.chunks(command, **args)
    assert (only.is_final, only.error_detail.reason) == (True, reason)


def test_a_stream_may_belong_to_a_session(client: Client) -> None:
    chunks = list(client.stream("about", {}, session_id="s9", request_id="r9"))
    assert json.loads(chunks[0].chunk["session_id"]) == "s9"
    assert chunks[0].request_id == "r9"


def test_timeout_ms_ends_a_call_that_has_no_deadline(client: Client, pipe: MakePipe) -> None:
    watch = pipe("watch")
    for call_id, seconds in enumerate(times(), 71):
        options = {"timeout_ms": round(seconds * 1000), "call_id": call_id}
        response = client.begin("wait", {"pipe": watch.path}, timeout=None, **options).result()
        assert response.error_detail.reason == "timeout"
        assert "timeout_ms" in response.error
        assert call_id not in client.health(await_call_id=call_id).running_call_ids
        # A call that had not started by then never starts.
        if watch.told():
            break
    assert [watch.line(), watch.line()] == ["started", "cancelled True"]


def test_timeout_ms_ends_a_stream_that_has_no_deadline(client: Client, pipe: MakePipe) -> None:
    watch = pipe("watch")
    for seconds in times():
        options = {"timeout_ms": round(seconds * 1000)}
        # Of small chunks a server would have sent tens of thousands.
        args = {"pipe": watch.path, "size": 20_000}
        *chunks, last = client.stream("endless", args, timeout=None, **options)
        assert last.error_detail.reason == "timeout"
        if len(chunks) > 1:
            break
    assert len(chunks) > 1
    assert watch.line() == "finally"


def test_grpcio_ends_a_call_at_its_deadline_though_further_messages_wait() -> None:
    waiting = Waiting()
    assert waiting.offer(b"late")
    with pytest.raises(TimedOutError):
        next(relay((b"" for _ in range(0)), time.monotonic() - 1, waiting))


# grpcio handles nothing else while a client does not take a chunk.
@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_timeout_ms_ends_an_unread_stream_between_two_chunks(
    client: Client, pipe: MakePipe
) -> None:
    watch = pipe("watch")
    args = {"pipe": watch.path, "size": 300_000}
    for call_id, seconds in enumerate(times(), 81):
        options = {"timeout_ms": round(seconds * 1000), "call_id": call_id}
        call = client.stream("endless", args, timeout=None, **options)
        # Once this answers, the call has ended, although it is unread.
        assert call_id not in client.health(await_call_id=call_id).running_call_ids
        if watch.told():
            break
        call.cancel()
    assert watch.line() == "finally"
    *chunks, last = call
    assert all(len(chunk.chunk["blob"]) == 300_000 for chunk in chunks)
    assert last.error_detail.reason == "timeout"


def test_timeout_ms_does_not_affect_calls_in_time(client: Client) -> None:
    call = client.stream("count", {"to": 100}, timeout=None, timeout_ms=60_000)
    assert len(list(call)) == 100
    response = client.begin("add", {"a": 1}, timeout=None, timeout_ms=60_000).result()
    assert response.result == {"result": b"1"}


def test_an_unknown_method_is_unimplemented(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary("/snakepit.SnakepitBridge/Nothing", bytes, bytes)(
            b"", timeout=PATIENCE
        )
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
