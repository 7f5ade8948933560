"""Tools and input streams, as a plain gRPC client provides them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from client import PATIENCE, Client, Pipe, times
from conftest import Start, _starter
from conversation import METHOD, TEXT, Conversation

from snakepit_bridge._proto import snakepit_pb2 as pb

ADAPTER = ("--adapter", "two_way:TwoWay")
PIPE = Callable[[str], Pipe]


def square(x: int) -> int:
    return x * x


def fails(x: int) -> None:
    raise KeyError(x)


class Silent(Conversation):
    """Answers nothing, and sends no items."""

    def answer(self, ask: pb.ToolAsk) -> None:
        pass

    def feed(self, each: Any) -> None:
        pass


class Leaving(Conversation):
    """Ends its side at once."""

    def answer(self, _ask: pb.ToolAsk) -> None:
        self.end()

    def feed(self, _each: Any) -> None:
        self.end()


@pytest.fixture(scope="module", params=["1", "8"])
def client(server: str, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a worker that runs one command at a time, and of one that runs several."""
    with ExitStack() as stack:
        worker = _starter(stack, server)("--max-concurrency", request.param, *ADAPTER)
        client = Client(worker.address())
        stack.callback(client.close)
        yield client


@pytest.fixture
def converse(client: Client) -> Callable[..., Conversation]:
    """Starts a call; `way` is the class of its client."""

    def converse(*args: Any, way: type[Conversation] = Conversation, **options: Any) -> Any:
        return way(client, *args, **options)

    return converse


Converse = Callable[..., Conversation]


def test_the_server_says_that_it_has_two_way_calls(client: Client) -> None:
    assert client.health().has_converse


@pytest.mark.parametrize("command", ["sum_of_squares", "asum_of_squares"])
def test_a_command_asks_tools(converse: Converse, command: str) -> None:
    call = converse(command, {"n": 20}, tools={"square": square}, call_id=7)
    assert call.run() == sum(x * x for x in range(20))
    assert len(call.asked) == 20
    assert call.reply is not None
    assert call.reply.call_id == 7


@pytest.mark.parametrize("command", ["squares", "asquares"])
def test_a_stream_asks_tools_between_its_chunks(converse: Converse, command: str) -> None:
    call = converse(command, {"n": 20}, tools={"square": square}, stream=True)
    assert call.run() == [x * x for x in range(20)]


@pytest.mark.parametrize("command", ["ask", "aask"])
def test_values_of_all_kinds_go_both_ways(converse: Converse, command: str) -> None:
    values = {"text": "grün", "raw": b"\xff\x00", "nested": {"a": [None, b"\xff", 1.5]}, "n": 2**70}
    args = {"tool": "same", "args": values}
    assert converse(command, args, tools={"same": lambda **given: given}).run() == {"value": values}
    for value in ("", "text", b"\xff", 7, None, [1, {"a": b"\xfe"}]):
        call = converse(command, {"tool": "give", "args": {}}, tools={"give": lambda v=value: v})
        assert call.run() == {"value": value}


@pytest.mark.parametrize("command", ["ask", "aask"])
def test_a_tool_that_fails_raises_a_plain_error(converse: Converse, command: str) -> None:
    call = converse(command, {"tool": "lookup", "args": {"x": 7}}, tools={"lookup": fails})
    assert call.run() == {
        "code": "missing",
        "message": "no such key",
        "data": {"key": 7},
        "tool": "lookup",
    }


def test_an_error_that_is_not_caught_fails_the_call(converse: Converse) -> None:
    error = converse("sum_of_squares", {"n": 1}, tools={"square": fails}).error()
    assert (error.reason, error.type) == ("python_error", "snakepit_bridge.ToolError")
    assert error.message == "the tool 'square' failed: missing: no such key"


@pytest.mark.parametrize("command", ["ask", "aask"])
def test_a_tool_that_is_not_offered_is_not_asked(converse: Converse, command: str) -> None:
    call = converse(command, {"tool": "nothing", "args": {}}, tools={"a": square, "b": square})
    result = call.run()
    assert result["code"] == "unknown_tool"
    assert result["message"] == "the caller of this command offers no such tool, but a, b"
    assert not call.asked
    result = converse(command, {"tool": "nothing", "args": {}}).run()
    assert result["message"] == "the caller of this command offers no tools"


def test_a_command_knows_the_names_of_the_tools(converse: Converse, client: Client) -> None:
    assert converse("tools", tools={"a": square, "b": square}).run() == ["a", "b"]
    assert client.result("tools") == {"result": []}


@pytest.mark.parametrize("command", ["ask", "aask"])
def test_an_ask_has_a_timeout(converse: Converse, command: str) -> None:
    args = {"tool": "wait", "args": {}, "timeout": 0.01}
    call = converse(command, args, tools={"wait": square}, way=Silent)
    assert call.run() == {
        "code": "timeout",
        "message": "it has not answered within 0.01 s",
        "data": None,
        "tool": "wait",
    }
    (asked,) = call.asked
    assert call.withdrawn == [asked.ask_id]
    assert asked.timeout_us == 10_000


#: How a cancelled wait ends in a function, and in an `async` command.
CANCELLED = [("blocks", "CallCancelledError True"), ("ablocks", "CancelledError True")]


@pytest.mark.parametrize(("command", "expected"), CANCELLED)
def test_a_cancelled_command_gets_no_exception_that_it_would_handle(
    converse: Converse, pipe: PIPE, command: str, expected: str, client: Client
) -> None:
    end = pipe("end")
    # Which of two threads is first must not matter.
    for _ in range(20):
        call = converse(command, {"pipe": end.path}, tools={"wait": square}, call_id=11, way=Silent)
        call.until(lambda call: call.asked)
        call.rpc.cancel()
        assert end.line() == expected
        if command == "ablocks":
            assert end.line() == "cleaned up"
        client.wait_for_calls(0)
    assert client.health(11).await_exit in (pb.HANDLER_EXIT_STOPPED, pb.HANDLER_EXIT_CLOSED)


@pytest.mark.parametrize("how", ["wait_for", "gather", "task", "shield"])
def test_further_tasks_of_a_cancelled_command_are_cancelled_as_well(
    converse: Converse, pipe: PIPE, how: str, client: Client
) -> None:
    end = pipe("end")
    args = {"pipe": end.path, "how": how}
    for _ in range(10):
        call = converse("ablocks_deeper", args, tools={"wait": square}, way=Silent)
        call.until(lambda call: call.asked)
        call.rpc.cancel()
        assert [end.line(), end.line()] == ["CancelledError", "CancelledError"]
        client.wait_for_calls(0)


def test_further_tasks_that_read_an_input_are_cancelled_with_their_command(
    converse: Converse, pipe: PIPE, client: Client
) -> None:
    end = pipe("end")
    for _ in range(20):
        call = converse("areads_deeper", {"pipe": end.path}, inputs={"rows": [1]}, way=Silent)
        call.next()
        call.rpc.cancel()
        assert end.line() == "CancelledError"
        client.wait_for_calls(0)


@pytest.mark.parametrize("in_header", [True, False])
@pytest.mark.parametrize(("command", "expected"), CANCELLED)
def test_the_deadline_of_a_call_ends_its_asks(
    converse: Converse, pipe: PIPE, command: str, expected: str, in_header: object
) -> None:
    for seconds in times():
        end = pipe(f"end-{seconds}")
        deadline: dict[str, Any] = {"timeout": seconds}
        if not in_header:
            deadline = {"timeout": None, "timeout_us": int(seconds * 1_000_000)}
        call = converse(command, {"pipe": end.path}, tools={"wait": square}, **deadline, way=Silent)
        if in_header:
            with pytest.raises(grpc.RpcError) as raised:
                call.run()
            assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            assert call.error().reason == "timeout"
        # Otherwise the command may not even have started.
        if call.asked:
            assert end.line() == expected
            return
    raise AssertionError("no command asked before its deadline")


@pytest.mark.parametrize("command", ["ask", "aask"])
def test_asks_fail_once_the_client_has_ended_its_side(converse: Converse, command: str) -> None:
    call = converse(command, {"tool": "wait", "args": {}}, tools={"wait": square}, way=Leaving)
    assert call.run()["code"] == "closed"


@pytest.mark.parametrize("command", ["leaves_a_thread", "aleaves_a_task"])
@pytest.mark.parametrize("has_rows", [False, True])
def test_what_a_command_leaves_behind_waits_for_nothing(
    converse: Converse, pipe: PIPE, command: str, has_rows: object
) -> None:
    ends, pipes = pipe("ends"), pipe("pipe")
    inputs: Any = {"rows": itertools.count()} if has_rows else {}
    args = {"ends": ends.path, "pipe": pipes.path}
    call = converse(command, args, tools={"wait": square}, inputs=inputs, way=Silent)
    call.until(lambda call: has_rows or call.asked)
    ends.send("end")
    assert call.run() is None
    expected = (
        "the call has ended" if has_rows else "the tool 'wait' failed: closed: the call has ended"
    )
    assert [pipes.line(), pipes.line()] == [expected, expected]


# grpcio itself crashes a forked child.
@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_forked_child_cannot_reach_the_caller(converse: Converse) -> None:
    call = converse("use_in_fork", tools={"square": square}, inputs={"rows": [1, 2]})
    assert call.run() == 2
    call = converse("use_in_fork", {"rows": [1, 2]}, tools={"square": square})
    assert call.run() == 1


def test_asks_beyond_the_clients_limit_are_held_back(converse: Converse) -> None:
    class Counting(Conversation):
        def answer(self, ask: pb.ToolAsk) -> None:
            waiting.append(ask)
            assert len(waiting) <= 3
            if len(waiting) == 3 or len(self.asked) == 10:
                for each in waiting:
                    super().answer(each)
                waiting.clear()

    waiting: list[pb.ToolAsk] = []
    call = converse(
        "asum_of_squares", {"n": 10}, tools={"square": square}, max_asks=3, way=Counting
    )
    assert call.run() == sum(x * x for x in range(10))


def test_answers_to_asks_that_are_held_back_are_ignored(converse: Converse) -> None:
    class Guessing(Conversation):
        def answer(self, ask: pb.ToolAsk) -> None:
            if len(self.asked) == 1:
                held = range(ask.ask_id + 1, ask.ask_id + 10)
                self.send(answers=[pb.ToolAnswer(ask_id=each, value=b"wrong") for each in held])
            super().answer(ask)

    call = converse(
        "asum_of_squares", {"n": 10}, tools={"square": square}, max_asks=1, way=Guessing
    )
    assert call.run() == sum(x * x for x in range(10))


def test_wrong_arguments_and_timeouts_are_named(converse: Converse) -> None:
    call = converse("asks_wrongly", tools={"lookup": square})
    assert call.run() == [
        "the arguments of the tool 'lookup' are a dict, or keywords, not set",
        "the arguments of the tool 'lookup' are a dict, or keywords, not list",
        "timeout is a number of seconds above 0, not 'x'",
        "timeout is a number of seconds above 0, not 0",
    ]
    assert not call.asked


@pytest.mark.parametrize("command", ["ask", "aask"])
def test_a_timeout_may_be_longer_than_a_thread_can_wait(converse: Converse, command: str) -> None:
    for timeout in (1e300, float("inf")):
        args = {"tool": "square", "args": {"x": 2}, "timeout": timeout}
        assert converse(command, args, tools={"square": square}).run() == {"value": 4}


@pytest.mark.parametrize("command", ["asks_with_an_object", "aasks_with_an_object"])
def test_arguments_that_cannot_be_sent_raise_a_type_error(converse: Converse, command: str) -> None:
    call = converse(command, tools={"lookup": square})
    assert call.run().startswith("args.it is of type object, which cannot be sent")
    assert not call.asked


@pytest.mark.parametrize("command", ["ask", "aask"])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"value": b"\xff", "kind": TEXT}, "the answer is marked as text but is not valid UTF-8"),
        ({"error": pb.ErrorDetail(code="code", data=b"\xff")}, "the data of the error"),
    ],
)
def test_an_answer_that_cannot_be_read_fails_the_ask(
    converse: Converse, command: str, answer: dict[str, Any], message: str
) -> None:
    class Garbling(Conversation):
        def answer(self, ask: pb.ToolAsk) -> None:
            self.send(answers=[pb.ToolAnswer(ask_id=ask.ask_id, **answer)])

    args = {"tool": "lookup", "args": {}}
    result = converse(command, args, tools={"lookup": square}, way=Garbling).run()
    assert (result["code"], result["tool"]) == ("unsendable", "lookup")
    assert result["message"].startswith(message)


def test_an_item_that_cannot_be_read_is_a_wrong_argument(converse: Converse) -> None:
    class Garbling(Conversation):
        def feed(self, each: Any) -> None:
            items = pb.InputItems(input_id=each.number, values=[b"\xff"], kinds=bytes((TEXT,)))
            self.send(items=[items])

    error = converse("total", inputs={"rows": []}, way=Garbling).error()
    assert error.reason == "invalid_args"
    assert error.message == "rows is marked as text but is not valid UTF-8"


def test_only_acall_may_be_used_on_the_event_loop(converse: Converse) -> None:
    assert converse("calls_in_loop", tools={"square": square}).run() == (
        "context.call('square') would block the event loop: write `await context.acall(...)`"
    )


@pytest.mark.parametrize(
    ("command", "expected"), [("in_a_thread", [x * x for x in range(8)]), ("in_a_loop", 9)]
)
def test_threads_and_loops_of_the_command_may_ask(
    converse: Converse, command: str, expected: Any
) -> None:
    assert converse(command, tools={"square": square}).run() == expected


def test_handlers_of_signals_run_while_a_command_waits(start: Start) -> None:
    # Its commands run in the main thread, as handlers do.
    with closing(Client(start("--max-concurrency", "1", *ADAPTER).address())) as client:
        assert Silent(client, "rings", tools={"wait": square}).run() == "it rang"
        assert Silent(client, "rings", inputs={"rows": [1]}).run() == "it rang"
        call = Conversation(client, "sum_of_squares", {"n": 3}, tools={"square": square})
        assert call.run() == 5


@pytest.mark.parametrize("command", ["total", "atotal"])
@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_a_command_reads_an_input(converse: Converse, command: str, count: int) -> None:
    call = converse(command, inputs={"rows": range(count)})
    assert call.run() == sum(range(count))


def test_an_input_is_an_argument_beside_others(converse: Converse) -> None:
    assert converse("total", {"add": 5}, inputs={"rows": [1]}).run() == 6
    assert converse("total", {"rows": [1, 2]}).run() == 3
    assert converse("untyped", inputs={"rows": [1, "a"]}).run() == [1, "a"]
    assert converse("optional", inputs={"rows": [1, 2]}).run() == 3
    assert converse("optional").run() == -1


def test_items_of_all_kinds_arrive_as_arguments_do(converse: Converse) -> None:
    items = ["a", b"\xff", 1, None, {"a": b"\xfe"}]
    assert converse("kinds", inputs={"items": items}).run() == [
        "str 'a'",
        "bytes b'\\xff'",
        "int 1",
        "NoneType None",
        "dict {'a': b'\\xfe'}",
    ]


def test_items_are_checked_and_converted(converse: Converse) -> None:
    assert converse("rows", inputs={"rows": [{"n": 1}, {"n": 2}]}).run() == [1, 2]
    error = converse("rows", inputs={"rows": [{"n": 1}, {"n": "2"}]}).error()
    assert error.reason == "invalid_args"
    assert error.message == "an item has the wrong type: rows[1].n: expected int, got str '2'"
    assert converse("rows", {"rows": [{"n": 1}, {"n": 2}]}).run() == [1, 2]
    error = converse("rows", {"rows": [{"n": 1}, {"n": "2"}]}).error()
    assert error.message.splitlines()[1:] == ["  rows[1].n: expected int, got str '2'"]
    error = converse("total", inputs={"rows": [*range(100), "x"]}).error()
    assert error.message == "an item has the wrong type: rows[100]: expected int, got str 'x'"


def test_a_command_may_skip_an_item_that_is_refused(converse: Converse) -> None:
    rows = [1, "a", 3, "b", "c", 6]
    expected = [1, "rows[1]", 3, "rows[3]", "rows[4]", 6]
    assert converse("skips", inputs={"rows": rows}).run() == expected


def test_an_input_for_another_parameter_is_refused(converse: Converse) -> None:
    error = converse("plain", inputs={"n": [1]}).error()
    assert error.reason == "invalid_args"
    assert "expected int, got snakepit_bridge.Input <input stream 'n'>" in error.message
    assert converse("plain", {"n": 1}, inputs={"m": [1]}).error().reason == "invalid_args"
    error = converse("total", {"rows": 7}).error()
    assert "expected Input[int], got int 7" in error.message
    error = converse("together", {"ns": 1}, inputs={"texts": [1]}).error()
    assert (error.reason, error.message) == (
        "invalid_args",
        "texts is an input stream, but the command takes batches: send a list in its place",
    )


def test_a_command_reads_several_inputs(converse: Converse) -> None:
    call = converse("zipped", inputs={"a": itertools.count(), "b": ["x", "y", "z"]})
    assert call.run() == ["0x", "1y", "2z"]


@pytest.mark.parametrize("command", ["doubled", "adoubled"])
def test_a_stream_reads_while_it_sends(converse: Converse, command: str) -> None:
    call = converse(command, inputs={"items": range(300)}, stream=True)
    assert call.run() == list(range(0, 600, 2))


def test_the_client_is_never_further_ahead_than_the_bound(converse: Converse, pipe: PIPE) -> None:
    step = pipe("step")
    args = {"pipe": step.path}
    call = converse("steps", args, inputs={"rows": itertools.count()}, max_items=4)
    call.until(lambda call: call.inputs[1].sent)
    for read in range(1, 20):
        assert call.inputs[1].sent <= read + 4
        step.send("next")
        if read % 2 == 0:
            while call.inputs[1].sent < read + 4:
                call.next()
    step.send("stop")
    assert call.run() == 20


def test_a_server_bounds_how_far_a_client_may_be_ahead(converse: Converse) -> None:
    call = converse("total", inputs={"rows": []}, way=Silent, max_items=2**32 - 1)
    (demand,) = call.next().input_demands
    assert (demand.demand.count, demand.demand.bytes) == (65_536, 262_144)
    call.rpc.cancel()


def test_an_input_ends_with_its_command(converse: Converse) -> None:
    assert converse("first", {"count": 3}, inputs={"rows": itertools.count()}).run() == [0, 1, 2]


def test_an_input_can_be_closed_before_the_command_ends(converse: Converse) -> None:
    lines = itertools.repeat("line")
    call = converse("header", inputs={"rows": lines}, tools={"square": square})
    assert call.run() == ["line", [], 4]
    assert call.stopped == ["rows"]


def test_what_fails_in_the_client_raises_an_error_after_all_items(converse: Converse) -> None:
    def rows() -> Iterator[int]:
        yield 1
        yield 2
        raise ArithmeticError("overflow")

    assert converse("caught", inputs={"rows": rows()}).run() == [
        [1, 2],
        "ArithmeticError",
        "overflow",
    ]
    error = converse("total", inputs={"rows": rows()}).error()
    assert (error.reason, error.type) == ("python_error", "snakepit_bridge.InputError")


def test_an_input_that_is_not_ended_fails_with_the_clients_side(converse: Converse) -> None:
    call = converse("caught", inputs={"rows": [1]}, way=Leaving)
    assert call.run() == [[], "", "the caller has ended its side of the call"]


def test_a_command_that_waits_for_an_item_is_cancelled(converse: Converse, pipe: PIPE) -> None:
    end = pipe("end")
    call = converse("reads_slowly", {"pipe": end.path}, inputs={"rows": [1]}, way=Silent)
    call.next()
    call.rpc.cancel()
    assert end.line() == "left"


def test_a_cancelled_command_reads_no_item_that_it_has_already_received(
    converse: Converse, pipe: PIPE
) -> None:
    read = pipe("read")
    call = converse("reads_on", {"pipe": read.path}, inputs={"rows": range(1000)})
    call.next()
    assert read.line() == "0"
    call.rpc.cancel()
    assert read.line() == "CallCancelledError"


def test_chunks_wait_for_demand_and_asks_do_not(converse: Converse) -> None:
    call = converse("squares", {"n": 4}, tools={"square": square}, stream=True, demand=(1, 1))
    call.until(lambda call: len(call.asked) == 2)
    call.until(lambda call: call.chunks)
    assert len(call.chunks) == 1
    for more in (2, 3, 4):
        call.send(demand=pb.Demand(count=1, bytes=1))
        while len(call.chunks) < more:
            call.next()
        assert len(call.chunks) == more
    assert call.run() == [0, 1, 4, 9]


def test_a_failed_chunk_needs_no_demand(converse: Converse) -> None:
    call = converse("squares", {"n": 4}, tools={"square": fails}, stream=True, demand=(0, 0))
    assert call.error().type == "snakepit_bridge.ToolError"


def test_more_items_than_wanted_end_the_call(converse: Converse) -> None:
    class Flooding(Conversation):
        def feed(self, each: Any) -> None:
            each.count, each.bytes = 1000, 1000
            super().feed(each)

    call = converse("total", inputs={"rows": range(1000)}, max_items=4, way=Flooding)
    with pytest.raises(grpc.RpcError) as raised:
        call.run()
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "the input 1 got more items than it has asked for"


def test_the_first_message_has_the_call_and_no_other(client: Client) -> None:
    start = client.channel.stream_stream(
        METHOD, pb.ConverseUp.SerializeToString, pb.ConverseDown.FromString
    )
    call = pb.ConverseCall(call=pb.CallFrame(command="tools"))
    for messages in ([], [pb.ConverseUp()]):
        with pytest.raises(grpc.RpcError) as raised:
            list(start(iter(messages), timeout=PATIENCE))
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert next(start(iter([pb.ConverseUp(call=call)]), timeout=PATIENCE)).reply.success


def test_commands_that_do_not_exist_or_stream_are_refused(converse: Converse) -> None:
    assert converse("nothing").error().reason == "unknown_command"
    assert converse("squares", {"n": 1}).error().reason == "invalid_args"
    assert converse("nothing", stream=True).error().reason == "unknown_command"


def test_a_call_of_a_plain_or_a_batching_command_may_be_two_way(converse: Converse) -> None:
    assert converse("plain", {"n": 3}, tools={"square": square}).run() == 3
    assert converse("plain", {"n": 3}, stream=True).run() == [3]
    assert converse("together", {"texts": "a", "ns": 1}).run() == "a1"


def test_nothing_is_left_of_calls_that_their_clients_leave(start: Start) -> None:
    worker = start("--max-concurrency", "4", *ADAPTER)
    address = worker.address()
    with closing(Client(address)) as client:
        tasks = Path(f"/proc/{worker.process.pid}/task")
        before = 0
        for turn in range(6):
            with closing(Client(address)) as leaving:
                calls = [
                    Conversation(leaving, "sum_of_squares", {"n": 3}, tools={"square": square}),
                    Silent(leaving, "asum_of_squares", {"n": 3}, tools={"square": square}),
                    Silent(leaving, "total", inputs={"rows": itertools.count()}),
                    Conversation(leaving, "atotal", inputs={"rows": itertools.count()}),
                ]
                for call in calls:
                    call.next()
                # Half of them end with their connection.
                if turn % 2:
                    for call in calls:
                        call.rpc.cancel()
            client.wait_for_calls(0)
            if turn == 0 and tasks.exists():
                before = len(list(tasks.iterdir()))
        call = Conversation(client, "sum_of_squares", {"n": 3}, tools={"square": square})
        assert call.run() == 5
        if before and client.info().system_info.get("grpcio") is None:
            assert len(list(tasks.iterdir())) <= before


def test_two_way_calls_work_over_tls(start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    certificate, key = authority.sign("server")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key), "--token-file", "tokens")
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    worker = start(*ADAPTER, "--listen", "tcp:127.0.0.1:0", *tls[:-1], str(tokens))
    root = grpc.ssl_channel_credentials(authority.path.read_bytes())
    with closing(Client(worker.address(), "secret", root)) as client:
        call = Conversation(client, "sum_of_squares", {"n": 20}, tools={"square": square})
        assert call.run() == sum(x * x for x in range(20))
        # More than a socket holds.
        rows = [bytes(range(256)) * 200] * 100
        lengths = Conversation(client, "lengths", inputs={"rows": rows}).run()
        assert lengths == [51_200] * 100
        words = Conversation(client, "doubled", inputs={"items": range(300)}, stream=True)
        assert words.run() == list(range(0, 600, 2))


def test_many_calls_ask_at_once(client: Client) -> None:
    results: list[Any] = []

    def run(n: int) -> None:
        call = Conversation(client, "asum_of_squares", {"n": n}, tools={"square": square})
        results.append((n, call.run()))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(results) == [(n, sum(x * x for x in range(n))) for n in range(8)]
