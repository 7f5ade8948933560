from __future__ import annotations

import contextlib
from collections.abc import Callable

import grpc
import pytest
from client import Client, Pipe, times

from snakepit_bridge._proto import snakepit_pb2 as pb

MakePipe = Callable[[str], Pipe]


def assert_exit(client: Client, call_id: int, text: str, handler_exit: pb.HandlerExit) -> None:
    """The call has ended, and clients of both kinds learn how."""
    health = client.health(await_call_id=call_id)
    assert health.running_call_ids == []
    assert (health.await_ended, health.await_exit) == (text, handler_exit)


def test_the_context_of_a_cancelled_call_reports_it_at_once(client: Client, pipe: MakePipe) -> None:
    watch = pipe("watch")
    call = client.begin("wait", {"pipe": watch.path}, call_id=11)
    assert watch.line() == "started"
    assert client.health().running_call_ids == [11]
    call.cancel()
    assert watch.line() == "cancelled True"
    assert_exit(client, 11, "stopped", pb.HANDLER_EXIT_STOPPED)
    assert "on_cancel" in client.result("note", note="x")["result"]


def test_a_deadline_cancels(client: Client, pipe: MakePipe) -> None:
    watch = pipe("watch")
    for call_id, seconds in enumerate(times(), 21):
        call = client.begin("wait", {"pipe": watch.path}, timeout=seconds, call_id=call_id)
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        client.wait_for_calls(0)
        # A call that had not started by then never starts.
        if watch.told():
            break
    assert [watch.line(), watch.line()] == ["started", "cancelled True"]


def test_a_lost_connection_cancels(pipe: MakePipe, connect: Callable[..., Client]) -> None:
    watch = pipe("watch")
    other = connect()
    other.begin("wait", {"pipe": watch.path})
    assert watch.line() == "started"
    other.close()
    assert watch.line() == "cancelled True"


def test_an_async_command_is_cancelled_like_a_task(client: Client, pipe: MakePipe) -> None:
    watch = pipe("watch")
    call = client.begin("wait_async", {"pipe": watch.path}, call_id=12)
    assert watch.line() == "started"
    call.cancel()
    assert watch.line() == "finally"
    assert_exit(client, 12, "closed", pb.HANDLER_EXIT_CLOSED)


@pytest.mark.parametrize("name", ["endless", "endless_async"])
def test_a_cancelled_generator_is_closed(client: Client, pipe: MakePipe, name: str) -> None:
    watch = pipe("watch")
    stream = client.stream(name, {"pipe": watch.path}, call_id=13)
    next(stream)
    stream.cancel()
    assert watch.line() == "finally"
    assert_exit(client, 13, "closed", pb.HANDLER_EXIT_CLOSED)


def test_a_call_counts_as_running_until_its_handler_has_ended(
    client: Client, pipe: MakePipe
) -> None:
    watch, until = pipe("watch"), pipe("until")
    stream = client.stream("stubborn", {"pipe": watch.path, "until": until.path}, call_id=14)
    next(stream)
    stream.cancel()
    assert watch.line() == "closing"
    assert client.health().running_call_ids == [14]
    waiting = client.begin_health(await_call_id=14)
    assert client.health().running_call_ids == [14]
    assert not waiting.done()
    until.send("go")
    assert waiting.result().running_call_ids == []


def test_health_that_awaits_a_call_answers_before_its_own_deadline(
    client: Client, pipe: MakePipe
) -> None:
    started, until = pipe("started"), pipe("until")
    args = {"started": started.path, "until": until.path}
    call = client.begin("hold", args, call_id=15)
    assert started.line() == "started"
    for seconds in times():
        with contextlib.suppress(grpc.RpcError):
            assert client.health(await_call_id=15, timeout=seconds).running_call_ids == [15]
            break
    else:
        pytest.fail("it never answered before its deadline")
    cancelled = client.begin_health(await_call_id=15, timeout=None)
    cancelled.cancel()
    until.send("go")
    assert call.result().success


def test_health_that_awaits_an_unknown_call_answers_at_once(client: Client) -> None:
    assert client.health(await_call_id=999).healthy
