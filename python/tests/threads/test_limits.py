from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import grpc
import pytest
from client import Client, Pipe

Connect = Callable[..., Client]
MakePipe = Callable[[str], Pipe]


@pytest.fixture
def held(connect: Connect, pipe: MakePipe) -> tuple[Client, Callable[[], None]]:
    """A worker whose only place is occupied, and how to free it."""
    client = connect()
    started, until = pipe("started"), pipe("until")
    client.begin("hold", {"started": started.path, "until": until.path, "note": "held"}, call_id=1)
    assert started.line() == "started"
    return client, lambda: until.send("go")


def test_calls_beyond_the_limit_run_in_the_order_of_their_arrival(
    held: tuple[Client, Callable[[], None]], server: str
) -> None:
    client, free = held
    calls = []
    for number, name in zip(range(20), itertools.cycle(["note", "note_async"])):
        calls.append(client.begin(name, {"note": number}))
        if server == "grpcio":
            # Of those that arrive together it takes a late one first now and then.
            client.wait_for_calls(1 + len(calls))
    client.wait_for_calls(21)
    assert not any(call.done() for call in calls)
    free()
    assert json.loads(calls[-1].result().result["result"]) == ["held", *range(20)]


def test_as_many_calls_run_at_once_as_allowed(connect: Connect, pipe: MakePipe) -> None:
    client = connect("--max-concurrency", "2")
    started, until = pipe("started"), pipe("until")
    args = {"started": started.path, "until": until.path}
    calls = []
    for number in (1, 2):
        calls.append(client.begin("hold", args, call_id=number))
        assert started.line() == "started"
    calls.append(client.begin("hold", args, call_id=3))
    client.wait_for_calls(3)
    assert sorted(client.health().running_call_ids) == [1, 2]
    until.send("go")
    assert started.line() == "started"
    until.send("go")
    until.send("go")
    for call in calls:
        assert call.result().success


def test_health_and_info_never_wait_for_commands(held: tuple[Client, Callable[[], None]]) -> None:
    client, free = held
    for number in range(50):
        client.begin("note", {"note": number})
    client.wait_for_calls(51)
    health = client.health()
    assert health.healthy
    assert health.running_call_ids == [1]
    assert "hold" in client.info().supported_commands
    free()


def test_a_call_cancelled_before_it_started_never_runs(
    held: tuple[Client, Callable[[], None]],
) -> None:
    client, free = held
    never = client.begin("note", {"note": "never"}, call_id=2)
    stream = client.stream("count", {"to": 3}, call_id=3)
    client.wait_for_calls(3)
    never.cancel()
    stream.cancel()
    client.wait_for_calls(1)
    assert client.health(await_call_id=2).running_call_ids == [1]
    assert client.health(await_call_id=3).running_call_ids == [1]
    free()
    assert client.result("note", note="next") == {"result": ["held", "next"]}


def test_a_waiting_call_whose_deadline_passes_never_runs(
    held: tuple[Client, Callable[[], None]],
) -> None:
    client, free = held
    with pytest.raises(grpc.RpcError) as caught:
        client.begin("note", {"note": "late"}, timeout=0.1).result()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    response = client.begin("note", {"note": "late"}, timeout=None, timeout_ms=100).result()
    assert response.error_detail.reason == "timeout"
    free()
    assert client.result("note", note="next") == {"result": ["held", "next"]}


def test_a_result_over_the_limit_is_an_error_that_names_the_option(connect: Connect) -> None:
    client = connect("--max-message-size", "50000")
    detail = client.error("give", what="blob")
    assert detail.reason == "message_too_large"
    assert "50000" in detail.message
    assert "max_message_size" in detail.message
    *_, last = client.chunks("give", what="blob")
    assert last.error_detail.reason == "message_too_large"
    assert client.health().total_errors == 2


def test_a_request_over_the_limit_is_refused_and_the_worker_continues(connect: Connect) -> None:
    client = connect("--max-message-size", "50000")
    with pytest.raises(grpc.RpcError) as caught:
        client.execute("echo", blob=b"x" * 60_000)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.execute("echo", blob=b"x" * 40_000).success


def test_large_messages_pass_under_a_large_limit(connect: Connect) -> None:
    client = connect("--max-message-size", str(64 * 1024 * 1024))
    blob = bytes(range(256)) * 80_000
    assert client.execute("echo", blob=blob).result["blob"] == blob


@pytest.mark.parametrize("name", ["endless", "endless_async"])
def test_a_slow_consumer_stops_the_generator(connect: Connect, pipe: MakePipe, name: str) -> None:
    client = connect("--max-concurrency", "2")
    watch = pipe("watch")
    stream = client.stream(name, {"pipe": watch.path, "size": 100_000})
    for _ in range(5):
        next(stream)
    produced, unchanged = 0, 0
    while unchanged < 100:
        now = client.result("how_many")["result"]
        unchanged = unchanged + 1 if now == produced else 0
        produced = now
        assert produced < 500
    stream.cancel()
    assert watch.line() == "finally"


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_streams_of_the_event_loop_take_turns(connect: Connect, pipe: MakePipe) -> None:
    client = connect("--max-concurrency", "3")
    started, until = pipe("started"), pipe("until")
    client.begin("hold_the_loop", {"started": started.path, "until": until.path})
    assert started.line() == "started"
    streams = [client.stream("note_turns", {"name": name}) for name in "ab"]
    client.wait_for_calls(3)
    until.send("go")
    assert [len(list(stream)) for stream in streams] == [200, 200]
    *notes, _ = client.result("note", note="end")["result"]
    turns = [name for name, _ in itertools.groupby(notes)]
    assert len(turns) == 4
