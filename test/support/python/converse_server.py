"""A server of the RPC Converse without Snakepit: from the proto alone, with grpcio."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from typing import Any, Callable, Optional

import grpc
from own_server import serve

from snakepit_bridge._proto import snakepit_pb2 as pb

TEXT, BYTES, JSON = 1, 2, 3


def decoded(value: bytes, kind: int) -> Any:
    return {TEXT: bytes.decode, BYTES: list, JSON: json.loads}[kind](value)


def fields(values: dict[str, Any]) -> tuple[dict[str, bytes], bytes]:
    return {name: json.dumps(value).encode() for name, value in values.items()}, bytes(
        [JSON] * len(values)
    )


class Input:
    """What has come of an input, and how far its sender may go."""

    def __init__(self, call: Call, argument: pb.InputArgument) -> None:
        self.call, self.id = call, argument.input_id
        self.items: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.most, self.bytes = argument.max_items, argument.max_bytes

    def grant(self, count: int, size: int) -> None:
        demand = pb.Demand(count=count, bytes=size)
        self.call.send(input_demands=[pb.InputDemand(input_id=self.id, demand=demand)])

    def __iter__(self) -> Iterator[Any]:
        self.grant(self.most, self.bytes)
        while True:
            kind, value = self.items.get()
            if kind == "end":
                return
            if kind == "error":
                raise RuntimeError(f"{value.type}: {value.message} ({value.reason})")
            self.grant(1, len(value[0]))
            yield decoded(*value)

    def stop(self) -> None:
        self.call.send(stopped_inputs=[self.id])


class Call:
    """One call: its messages in both directions."""

    def __init__(self, up: Iterator[pb.ConverseUp], rpc: grpc.ServicerContext) -> None:
        self.down: queue.Queue[Optional[pb.ConverseDown]] = queue.Queue()
        self.answers: queue.Queue[pb.ToolAnswer] = queue.Queue()
        self.demand = threading.Semaphore(0)
        self.ended = threading.Event()
        rpc.add_callback(self.end)
        first = next(up)
        self.shape = first.call
        frame = first.call.call
        kinds = dict(zip(sorted(frame.args), frame.arg_kinds))
        self.args = {name: decoded(frame.args[name], kinds[name]) for name in frame.args}
        self.inputs = {one.name: Input(self, one) for one in first.call.inputs}
        self.by_id = {one.id: one for one in self.inputs.values()}
        self.read(first)
        threading.Thread(target=self.read_all, args=(up,), daemon=True).start()

    def end(self) -> None:
        self.ended.set()
        self.down.put(None)

    def send(self, **message: Any) -> None:
        self.down.put(pb.ConverseDown(**message))

    def read_all(self, up: Iterator[pb.ConverseUp]) -> None:
        try:
            for message in up:
                self.read(message)
        except grpc.RpcError:
            pass

    def read(self, message: pb.ConverseUp) -> None:
        for answer in message.answers:
            self.answers.put(answer)
        for items in message.items:
            for value in zip(items.values, items.kinds):
                self.by_id[items.input_id].items.put(("item", value))
        for end in message.input_ends:
            failed = end.HasField("error")
            self.by_id[end.input_id].items.put(("error", end.error) if failed else ("end", None))
        for _ in range(message.demand.count):
            self.demand.release()

    def ask(self, ask_id: int, tool: str, **args: Any) -> None:
        values, kinds = fields(args)
        self.send(asks=[pb.ToolAsk(ask_id=ask_id, tool=tool, args=values, arg_kinds=kinds)])

    def answer(self) -> Any:
        answer = self.answers.get()
        if not answer.HasField("error"):
            return decoded(answer.value, answer.kind)
        error = answer.error
        data = json.loads(error.data) if error.data else None
        return {
            "reason": error.reason,
            "code": error.code,
            "type": error.type,
            "message": error.message,
            "data": data,
        }

    def reply(self, **result: Any) -> None:
        values, kinds = fields(result)
        self.send(reply=pb.ReplyFrame(success=True, result=values, result_kinds=kinds))
        self.down.put(None)


def ask(call: Call) -> None:
    asks = call.args.get("asks") or [[call.args["tool"], call.args.get("args", {})]]
    answers = []
    for ask_id, (tool, args) in enumerate(asks, 1):
        call.ask(ask_id, tool, **args)
        answers.append(call.answer())
    call.reply(answers=answers, tools=list(call.shape.tools), max_asks=call.shape.max_asks)


def ask_at_once(call: Call) -> None:
    for ask_id in range(1, call.args["count"] + 1):
        call.ask(ask_id, call.args["tool"], number=ask_id)
    call.reply(answers=sorted(call.answer() for _ in range(call.args["count"])))


def ask_twice_by_one_id(call: Call) -> None:
    call.ask(1, call.args["tool"])
    call.ask(1, call.args["tool"])


def ask_and_withdraw(call: Call) -> None:
    call.ask(1, call.args["tool"])
    call.ask(2, call.args["until"])
    call.answer()
    call.send(withdrawn_asks=[1])
    call.ask(3, call.args["until"])
    call.reply(answer=call.answer())


def ask_and_withdraw_often(call: Call) -> None:
    count = call.args["count"]
    for ask_id in range(1, count + 1):
        call.ask(ask_id, call.args["tool"])
        call.send(withdrawn_asks=[ask_id])
    call.ask(count + 1, call.args["until"])
    call.reply(answer=call.answer())


def ask_and_return(call: Call) -> None:
    call.ask(1, call.args["tool"])
    call.ask(2, call.args["until"])
    call.answer()
    call.reply()


def collect(call: Call) -> None:
    call.reply(**{name: list(one) for name, one in call.inputs.items()})


def count(call: Call) -> None:
    call.reply(count=sum(1 for _ in call.inputs["items"]))


def take(call: Call) -> None:
    items = iter(call.inputs["items"])
    taken = [next(items) for _ in range(call.args["count"])]
    if call.args.get("stop"):
        call.inputs["items"].stop()
        call.ask(1, call.args["stop"])
        call.answer()
    call.reply(taken=taken)


def failing(call: Call) -> None:
    try:
        list(call.inputs["items"])
    except RuntimeError as error:
        call.ask(1, call.args["tool"], error=str(error))
        call.answer()
    call.reply()


def echo(call: Call) -> None:
    for item in call.inputs["items"]:
        while not call.demand.acquire(timeout=0.05):
            if call.ended.is_set():
                return
        values, kinds = fields({"item": item})
        call.send(chunks=[pb.StreamResponse(chunk=values, chunk_kinds=kinds)])
    call.down.put(None)


def more_than_demanded(call: Call) -> None:
    for index in range(100):
        values, kinds = fields({"index": index, "x": "x" * call.args["size"]})
        call.send(chunks=[pb.StreamResponse(chunk=values, chunk_kinds=kinds)])


def unknown_input(call: Call) -> None:
    call.send(stopped_inputs=[7])


def end_without_reply(call: Call) -> None:
    call.down.put(None)


COMMANDS: dict[str, Callable[[Call], None]] = {
    command.__name__: command
    for command in (
        ask,
        ask_at_once,
        ask_twice_by_one_id,
        ask_and_withdraw,
        ask_and_withdraw_often,
        ask_and_return,
        collect,
        count,
        take,
        failing,
        echo,
        more_than_demanded,
        unknown_input,
        end_without_reply,
    )
}


def run(call: Call) -> None:
    try:
        COMMANDS[call.shape.call.command](call)
    except RuntimeError as error:
        if call.shape.stream:
            call.send(chunks=[pb.StreamResponse(error=str(error), is_final=True)])
        else:
            call.send(reply=pb.ReplyFrame(error=str(error)))
        call.down.put(None)


def converse(up: Iterator[pb.ConverseUp], rpc: grpc.ServicerContext) -> Iterator[pb.ConverseDown]:
    call = Call(up, rpc)
    threading.Thread(target=run, args=(call,), daemon=True).start()
    while (message := call.down.get()) is not None:
        yield message


def health(request: pb.HealthRequest, _rpc: grpc.ServicerContext) -> pb.HealthResponse:
    return pb.HealthResponse(healthy=True, worker_id=request.worker_id, has_converse=True)


def main() -> None:
    handlers = {
        "Converse": grpc.stream_stream_rpc_method_handler(
            converse, pb.ConverseUp.FromString, pb.ConverseDown.SerializeToString
        ),
        "Health": grpc.unary_unary_rpc_method_handler(
            health, pb.HealthRequest.FromString, pb.HealthResponse.SerializeToString
        ),
    }
    serve(handlers, 64)


main()
