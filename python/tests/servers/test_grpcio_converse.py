"""Two-way calls on grpcio: how a client ends its side, or leaves."""

from __future__ import annotations

import functools
import threading
from collections.abc import Generator, Iterator
from typing import Optional

import pytest
from client import PATIENCE

from snakepit_bridge import Adapter, Context, ToolError, command
from snakepit_bridge._commands.call import Call
from snakepit_bridge._commands.registry import Command, Registry
from snakepit_bridge._grpcio.grpcio_converse import Start, TwoWayCall
from snakepit_bridge._grpcio.grpcio_wire import MAX_EVENTS, ConverseWire
from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._threads.runner import Runner
from snakepit_bridge._two_way.conversation import Conversation


class Asking(Adapter):
    @command
    def ask(self, context: Context) -> str:
        try:
            return str(context.call("wait"))
        except ToolError as error:
            return error.code

    @command
    def chunks(self) -> Generator[int, None, int]:
        yield 1
        return 2


@pytest.fixture
def call() -> TwoWayCall:
    return make_call(pb.ConverseCall(call=pb.CallFrame(command="ask"), tools=["wait"]))


def make_call(of_client: pb.ConverseCall, demand: Optional[pb.Demand] = None) -> TwoWayCall:
    """A call whose client sends nothing after its first message."""
    runner, registry = Runner(1), Registry(Asking())

    def make(
        command: Command, _wire: ConverseWire, conversation: Conversation
    ) -> tuple[Call, Optional[float]]:
        context = Context(asks=conversation)
        return Call(command, dict, context, conversation=conversation), None

    start = Start(
        runner=runner,
        find=functools.partial(registry.find, stream=of_client.stream),
        call=make,
        limit=1 << 20,
        ends_within=lambda _seconds: False,
        on_full=str,
    )
    return TwoWayCall(pb.ConverseUp(call=of_client, demand=demand), iter(()), start)


def _until_empty(messages: Iterator[bytes]) -> None:
    """Takes messages up to the one without content."""
    while next(messages):
        continue


def _wait_for_reader() -> None:
    for thread in threading.enumerate():
        if thread.name == "snakepit-converse":
            thread.join(PATIENCE)


def test_a_client_has_ended_its_side_once_a_later_message_was_sent(call: TwoWayCall) -> None:
    messages = call.serve()
    _until_empty(messages)
    *_, reply = map(pb.ConverseDown.FromString, messages)
    assert b"closed" in reply.reply.result["result"]


def test_a_client_that_has_cancelled_the_rpc_has_not_ended_its_side(call: TwoWayCall) -> None:
    messages = call.serve()
    _until_empty(messages)
    # grpcio takes no further message, and cancels the call.
    messages.close()
    _wait_for_reader()
    assert call.conversation.ended == ""
    call.cancel()
    assert call.conversation.ended == "cancelled"


def test_a_last_chunk_does_not_wait_for_a_client_that_has_left() -> None:
    frame = pb.CallFrame(command="chunks")
    demand = pb.Demand(count=1, bytes=1 << 20)
    call = make_call(pb.ConverseCall(call=frame, stream=True), demand)
    messages = call.serve()
    assert len(pb.ConverseDown.FromString(next(messages)).chunks) == 1
    # The command has ended, and only its client has not taken all of it.
    assert call._start.runner.wait_idle(None, PATIENCE)
    call.cancel()
    serving = threading.Thread(target=list, args=(messages,), daemon=True)
    serving.start()
    serving.join(PATIENCE)
    assert not serving.is_alive()


def test_events_are_dropped_while_the_client_does_not_read(call: TwoWayCall) -> None:
    sent = [call.wire.telemetry("flood", b"{}", b"{}") for _ in range(MAX_EVENTS + 1)]
    assert sent == [True] * MAX_EVENTS + [False]
    call.wire.withdraw(1)
    assert call._messages.qsize() == MAX_EVENTS + 1
