"""A two-way call of a plain gRPC client, which knows `Converse` from the contract alone."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional

from client import PATIENCE, Client

from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._values.fields import decode_fields, encode, encode_fields

METHOD = "/snakepit.SnakepitBridge/Converse"
TEXT, JSON = 1, 3


class Conversation:
    """Answers asks by its tools, and sends the items of its inputs as far as they are wanted."""

    def __init__(
        self,
        client: Client,
        command: str,
        args: Optional[dict[str, Any]] = None,
        *,
        tools: Optional[dict[str, Callable[..., Any]]] = None,
        inputs: Optional[dict[str, Iterable[Any]]] = None,
        stream: bool = False,
        demand: tuple[int, int] = (1 << 20, 1 << 40),
        max_asks: int = 0,
        max_items: int = 0,
        timeout: Optional[float] = PATIENCE,
        **frame: Any,
    ) -> None:
        self.tools = tools or {}
        self.chunks: list[Any] = []
        self.events: list[pb.CallEvent] = []
        self.asked: list[pb.ToolAsk] = []
        self.withdrawn: list[int] = []
        self.stopped: list[str] = []
        self.reply: Optional[pb.ReplyFrame] = None
        self.failure: Optional[pb.ErrorDetail] = None
        #: The inputs by their ids: the name, the items, and what is wanted.
        self.inputs: dict[int, Input] = {
            number: Input(number, name, items)
            for number, (name, items) in enumerate((inputs or {}).items(), start=1)
        }
        fields, kinds = encode_fields(args or {}, kinds=True)
        call = pb.CallFrame(command=command, args=fields, arg_kinds=kinds, **frame)
        self._up: queue.SimpleQueue[Optional[pb.ConverseUp]] = queue.SimpleQueue()
        self.send(
            call=pb.ConverseCall(
                call=call,
                stream=stream,
                tools=list(self.tools),
                max_asks=max_asks,
                inputs=[
                    pb.InputArgument(name=each.name, input_id=each.number, max_items=max_items)
                    for each in self.inputs.values()
                ],
            ),
            demand=pb.Demand(count=demand[0], bytes=demand[1]) if stream else None,
        )
        start = client.channel.stream_stream(
            METHOD, pb.ConverseUp.SerializeToString, pb.ConverseDown.FromString
        )
        self.rpc = start(
            iter(self._up.get, None), timeout=timeout, wait_for_ready=True, metadata=client.metadata
        )

    def send(self, **fields: Any) -> None:
        self._up.put(pb.ConverseUp(**fields))

    def end(self) -> None:
        """Ends this side."""
        self._up.put(None)

    def answer(self, ask: pb.ToolAsk) -> None:
        args = decode_fields(ask.args, ask.arg_kinds if ask.HasField("arg_kinds") else None)
        try:
            kind, value = encode(self.tools[ask.tool](**args), kinds=True)
            self.send(answers=[pb.ToolAnswer(ask_id=ask.ask_id, value=value, kind=kind)])
        except KeyError as error:
            data = encode({"key": error.args[0]}, kinds=True)[1]
            detail = pb.ErrorDetail(code="missing", message="no such key", data=data)
            self.send(answers=[pb.ToolAnswer(ask_id=ask.ask_id, error=detail)])

    def take(self, down: pb.ConverseDown) -> None:
        for chunk in down.chunks:
            if chunk.HasField("error_detail"):
                self.failure = chunk.error_detail
            else:
                self.chunks.append(decode_fields(chunk.chunk, chunk.chunk_kinds))
        if down.HasField("reply"):
            self.reply = down.reply
        self.events += down.events
        self.withdrawn += down.withdrawn_asks
        for ask in down.asks:
            self.asked.append(ask)
            self.answer(ask)
        for each in down.input_demands:
            self.inputs[each.input_id].want(each.demand)
            self.feed(self.inputs[each.input_id])
        for number in down.stopped_inputs:
            self.stopped.append(self.inputs.pop(number).name)

    def feed(self, each: Input) -> None:
        """Sends the items that are wanted, and the end, in one message."""
        items = pb.InputItems(input_id=each.number)
        kinds = []
        ends = []
        while not each.ended and each.count > 0 and each.bytes > 0:
            try:
                item = next(each.items)
            except StopIteration:
                each.ended = True
                ends = [pb.InputEnd(input_id=each.number)]
            except ArithmeticError as error:
                each.ended = True
                detail = pb.ErrorDetail(type="ArithmeticError", message=str(error))
                ends = [pb.InputEnd(input_id=each.number, error=detail)]
            else:
                kind, value = encode(item, kinds=True)
                items.values.append(value)
                kinds.append(kind)
                each.sent += 1
                each.count -= 1
                each.bytes -= len(value)
        items.kinds = bytes(kinds)
        if kinds or ends:
            self.send(items=[items] if kinds else [], input_ends=ends)

    def next(self) -> pb.ConverseDown:
        """Takes the next message."""
        down: pb.ConverseDown = next(self.rpc)
        self.take(down)
        return down

    def until(self, wanted: Callable[[Conversation], object]) -> None:
        """Takes messages until something is so."""
        while not wanted(self):
            self.next()

    def run(self) -> Any:
        """Takes all messages; returns the result, or the chunks."""
        for down in self.rpc:
            self.take(down)
        self.end()
        if self.reply is None:
            return [chunk.get("result", chunk) for chunk in self.chunks]
        assert self.reply.success, self.reply
        fields = decode_fields(self.reply.result, self.reply.result_kinds)
        return fields.get("result", fields)

    def error(self) -> pb.ErrorDetail:
        """Takes all messages; returns the error with which the call has failed."""
        for down in self.rpc:
            self.take(down)
        self.end()
        if self.reply is not None:
            assert not self.reply.success
            return self.reply.error_detail
        assert self.failure is not None
        return self.failure


class Input:
    def __init__(self, number: int, name: str, items: Iterable[Any]) -> None:
        self.number = number
        self.name = name
        self.items: Iterator[Any] = iter(items)
        self.count = 0
        self.bytes = 0
        self.sent = 0
        self.ended = False

    def want(self, demand: pb.Demand) -> None:
        self.count += demand.count
        self.bytes += demand.bytes
