"""Serves `Converse` on grpcio: one two-way call in an RPC."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, Optional

import grpc

from snakepit_bridge._arguments.inputs import no_inputs
from snakepit_bridge._commands.call import Call
from snakepit_bridge._commands.registry import Command
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._errors.guards import invalid_args
from snakepit_bridge._errors.two_way import InputError
from snakepit_bridge._grpcio.grpcio_wire import MAX_EVENTS, ConverseChunks, ConverseWire
from snakepit_bridge._grpcio.relay import Waiting, relay
from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._threads import execution
from snakepit_bridge._threads.runner import Runner
from snakepit_bridge._two_way.conversation import Conversation, ProtocolError
from snakepit_bridge._two_way.tools import failed
from snakepit_bridge._values.fields import decode

#: If the client cancels an RPC, grpcio says at first only that no further request comes. A message
#: without content that could be sent after that, and as many seconds as these, show that the client
#: has ended its side and not the RPC.
CANCELLED_WITHIN = 0.5
_NOTHING = pb.ConverseDown().SerializeToString()


class Start(NamedTuple):
    """What a server provides for a two-way call."""

    runner: Runner
    find: Callable[[str], Command]
    #: Makes the call of a command, and its deadline if gRPC does not enforce it.
    call: Callable[[Command, ConverseWire, Conversation], tuple[Call, Optional[float]]]
    limit: int
    #: Waits so many seconds at most until the RPC has ended; returns whether it has.
    ends_within: Callable[[float], bool]
    on_full: Callable[[str], object]


class TwoWayCall:
    """A call by `Converse`."""

    def __init__(
        self, first: pb.ConverseUp, requests: Iterator[pb.ConverseUp], start: Start
    ) -> None:
        self.frame = frame = first.call.call
        self._first = first
        self._requests = requests
        self._start = start
        # The client has asked for whatever waits there, except events.
        self._messages = Waiting(0)
        self.wire = ConverseWire(
            start.limit,
            self._messages.put,
            frame.call_id,
            report=functools.partial(_report, self._messages),
            kinds=frame.HasField("arg_kinds"),
            on_full=start.on_full,
        )
        self.chunks: Optional[ConverseChunks] = None
        if first.call.stream:
            self.chunks = ConverseChunks(frame.request_id, start.limit, start.on_full)
        self.conversation = Conversation(self.wire, first.call.tools, first.call.max_asks)
        self._input_names = {each.input_id: each.name for each in first.call.inputs}
        self._call: Optional[Call] = None
        #: Set once grpcio has sent `_NOTHING`, or the call has ended.
        self._passed = threading.Event()
        self._over = False

    @property
    def outcome(self) -> str:
        """How it has ended, for the log of calls."""
        outcomes = self.wire.outcome, "ok" if self.chunks is None else self.chunks.outcome
        return next((outcome for outcome in outcomes if outcome != "ok"), "ok")

    def leave(self) -> None:
        """Forgets the call, which refers to this: together they would keep the RPC."""
        self._call = None

    def cancel(self) -> None:
        if self._call is not None:
            self._start.runner.cancel(self._call)

    def failure(self, failure: CallError) -> bytes:
        return (self.chunks or self.wire).failure(failure)

    def serve(self) -> Generator[bytes, None, None]:
        """Yields the messages for the client. Raises a `ProtocolError`, or at the deadline."""
        start = self._start
        try:
            command = start.find(self.frame.command)
            call, deadline = start.call(command, self.wire, self.conversation)
        except CallError as failure:
            start.runner.count_refused()
            yield self.failure(failure)
            return
        self._call = call
        self._receive(self._first)
        threading.Thread(target=self._read, name="snakepit-converse", daemon=True).start()
        try:
            for message in relay(self._answers(call), deadline, self._messages):
                yield message
                # grpcio comes back here only if the RPC has not ended.
                if message == _NOTHING:
                    self._passed.set()
        finally:
            self._over = True
            self._passed.set()

    def args(self, decoded: Callable[[], dict[str, Any]], command: Command) -> dict[str, Any]:
        """The arguments of the call, with its input streams."""
        args = decoded()
        for each in self._first.call.inputs:
            if command.batching is not None:
                raise no_inputs(each.name)
            args[each.name] = self.conversation.input(
                each.input_id, each.name, each.max_items, each.max_bytes
            )
        return args

    def _answers(self, call: Call) -> Generator[bytes, None, None]:
        runner, chunks = self._start.runner, self.chunks
        if chunks is None:
            yield execution.run(runner, call, self.wire)
            return
        messages = execution.stream(runner, call, chunks)
        try:
            for message in messages:
                if chunks.counted is not None:
                    self.conversation.wait_demand(chunks.counted)
                yield message
        finally:
            messages.close()

    def _read(self) -> None:
        try:
            for up in self._requests:
                self._receive(up)
        except ProtocolError as error:
            self._messages.put(error)
        except Exception:
            # The RPC has ended: if the call has not, it is cancelled.
            return
        if not self.conversation.expects_more():
            return
        self._messages.put(_NOTHING)
        self._passed.wait()
        if not self._over and not self._start.ends_within(CANCELLED_WITHIN):
            self.conversation.end("closed")

    def _receive(self, up: pb.ConverseUp) -> None:
        if up.HasField("call") and up is not self._first:
            raise ProtocolError("only the first message of the RPC may have `call`")
        conversation = self.conversation
        for answer in up.answers:
            conversation.answer(answer.ask_id, functools.partial(_value, answer))
        for items in up.items:
            if len(items.values) != len(items.kinds):
                raise ProtocolError(f"{len(items.values)} items came with {len(items.kinds)} kinds")
            name = self._input_names.get(items.input_id, "")
            values = [
                (len(value), functools.partial(_decoded, value, name, kind))
                for value, kind in zip(items.values, items.kinds)
            ]
            conversation.add(items.input_id, values)
        for end in up.input_ends:
            error = InputError(end.error.message, type=end.error.type)
            conversation.end_input(end.input_id, error if end.HasField("error") else None)
        if up.HasField("demand"):
            conversation.add_demand(up.demand.count, up.demand.bytes)


def _report(waiting: Waiting, event: bytes) -> bool:
    return waiting.qsize() < MAX_EVENTS and waiting.offer(event)


def _value(answer: pb.ToolAnswer) -> object:
    if answer.HasField("error"):
        error = answer.error
        raise failed(error.code or error.reason, error.message, error.data)
    return _decoded(answer.value, "the answer", answer.kind)


def _decoded(data: bytes, name: str, kind: int) -> object:
    with invalid_args:
        return decode(data, name, kind)


def first_of(requests: Iterator[pb.ConverseUp], rpc: grpc.ServicerContext) -> pb.ConverseUp:
    """Returns the first message, which has the call."""
    first = next(requests, None)
    if first is None:
        rpc.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "expected a first message with `call`, got none"
        )
    if not first.HasField("call"):
        rpc.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "expected `call` in the first message of the RPC"
        )
    return first
