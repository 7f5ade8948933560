"""Calls that share one RPC."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Optional

import grpc
import pytest
from client import PATIENCE, Client, Pipe
from conftest import Start

from snakepit_bridge._proto import snakepit_pb2 as pb

MakePipe = Callable[[str], Pipe]

CALLS = "/snakepit.SnakepitBridge/Calls"


class Frames:
    """A `Calls` RPC: sends frames, or any bytes."""

    def __init__(self, client: Client) -> None:
        self._sent: queue.SimpleQueue[Optional[bytes]] = queue.SimpleQueue()
        call: Any = client.channel.stream_stream(CALLS, None, pb.ReplyFrame.FromString)
        self._replies: Any = call(iter(self._sent.get, None), timeout=PATIENCE, wait_for_ready=True)

    def send(self, *frames: pb.CallFrame) -> None:
        for frame in frames:
            self.send_bytes(frame.SerializeToString())

    def send_bytes(self, data: bytes) -> None:
        self._sent.put(data)

    def call(self, call_id: int, command: str, **args: bytes) -> None:
        self.send(pb.CallFrame(call_id=call_id, command=command, args=args))

    def act(self, call_id: int, act: pb.CallFrame.Act) -> None:
        self.send(pb.CallFrame(call_id=call_id, act=act))

    def reply(self) -> pb.ReplyFrame:
        """The next reply to a call."""
        reply: pb.ReplyFrame
        for reply in self._replies:
            if reply.call_id:
                return reply
        raise AssertionError("the server ended the replies")

    def replies(self, count: int) -> dict[int, pb.ReplyFrame]:
        return {reply.call_id: reply for reply in (self.reply() for _ in range(count))}

    def status(self) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as caught:
            self.reply()
        return caught.value.code()

    def close(self) -> None:
        self._sent.put(None)
        self._replies.cancel()


@pytest.fixture
def frames(client: Client) -> Iterator[Frames]:
    with closing(Frames(client)) as frames:
        yield frames


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
def test_a_server_without_the_rpc_says_so(frames: Frames) -> None:
    assert frames.status() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("server", ["native"], indirect=True)
class TestCalls:
    def test_each_call_is_answered_under_its_own_id(self, frames: Frames) -> None:
        for call_id in range(1, 101):
            frames.call(call_id, "add_async" if call_id % 2 else "add", a=b"%d" % call_id)
        replies = frames.replies(100)
        assert {n: reply.result["result"] for n, reply in replies.items()} == {
            n: b"%d" % n for n in range(1, 101)
        }
        assert all(reply.success and reply.handler_ns > 0 for reply in replies.values())

    def test_a_failure_affects_only_its_call(self, frames: Frames) -> None:
        frames.call(1, "fail", how=b"value")
        frames.call(2, "no_such_command")
        frames.call(3, "add", b=b"1")
        frames.call(4, "add", a=b"1")
        replies = frames.replies(4)
        reasons = [replies[n].error_detail.reason for n in (1, 2, 3)]
        assert reasons == ["python_error", "unknown_command", "invalid_args"]
        assert replies[4].result == {"result": b"1"}

    def test_unknown_commands_do_not_pile_up_while_python_is_busy(
        self, client: Client, pipe: MakePipe
    ) -> None:
        started, until = pipe("started"), pipe("until")
        with closing(Frames(client)) as frames:
            paths = {"started": started.path.encode(), "until": until.path.encode()}
            frames.call(1, "hold_the_gil", **paths)
            assert started.line() == "started"
            for call_id in range(2, 302):
                frames.call(call_id, "ad")
            early = frames.replies(300 - 128)
            until.send("go")
            late = frames.replies(1 + 128)
        assert late.pop(1).success
        assert {reply.error_detail.reason for reply in early.values()} == {"unknown_command"}
        assert all("did you mean 'add'?" in reply.error for reply in late.values())

    def test_a_cancel_frame_cancels_one_call(self, frames: Frames, pipe: MakePipe) -> None:
        pipes = {call_id: pipe(f"call{call_id}") for call_id in (1, 2, 3)}
        for call_id, told in pipes.items():
            frames.call(call_id, "wait", pipe=told.path.encode())
            assert told.line() == "started"
        frames.act(2, pb.CallFrame.CANCEL)
        assert pipes[2].line() == "cancelled True"
        reply = frames.reply()
        assert (reply.call_id, reply.ended) == (2, "stopped")
        assert reply.handler_exit == pb.HANDLER_EXIT_STOPPED
        frames.act(1, pb.CallFrame.CANCEL)
        assert pipes[1].line() == "cancelled True"
        assert frames.reply().call_id == 1
        frames.act(3, pb.CallFrame.CANCEL)
        assert frames.reply().call_id == 3

    def test_a_call_that_has_not_started_is_returned(self, start: Start, pipe: MakePipe) -> None:
        started, until = pipe("started"), pipe("until")
        with closing(Client(start().address())) as client, closing(Frames(client)) as frames:
            paths = {"started": started.path.encode(), "until": until.path.encode()}
            frames.call(1, "hold", note=b"1", **paths)
            assert started.line() == "started"
            frames.call(2, "note", note=b"2")
            for call_id in (1, 2):
                frames.act(call_id, pb.CallFrame.RECALL)
            reply = frames.reply()
            assert (reply.call_id, reply.not_started) == (2, True)
            until.send("go")
            reply = frames.reply()
            assert (reply.call_id, reply.success) == (1, True)
            assert client.result("note", note=3) == {"result": [1, 3]}

    def test_a_waiting_call_that_is_cancelled_never_starts(
        self, start: Start, pipe: MakePipe
    ) -> None:
        started, until = pipe("started"), pipe("until")
        with closing(Client(start().address())) as client, closing(Frames(client)) as frames:
            paths = {"started": started.path.encode(), "until": until.path.encode()}
            frames.call(1, "hold", **paths)
            assert started.line() == "started"
            frames.call(2, "note", note=b"2")
            frames.act(2, pb.CallFrame.CANCEL)
            assert frames.reply().call_id == 2
            until.send("go")
            assert frames.reply().call_id == 1
            assert client.result("note", note=3) == {"result": [None, 3]}

    def test_the_end_of_the_rpc_cancels_its_calls_and_no_others(
        self, client: Client, pipe: MakePipe
    ) -> None:
        mine, other = pipe("mine"), pipe("other")
        with closing(Frames(client)) as others:
            others.call(1, "wait", pipe=other.path.encode())
            assert other.line() == "started"
            with closing(Frames(client)) as frames:
                frames.call(1, "wait", pipe=mine.path.encode())
                assert mine.line() == "started"
            assert mine.line() == "cancelled True"
            others.act(1, pb.CallFrame.CANCEL)
            assert other.line() == "cancelled True"
            assert others.reply().call_id == 1

    @pytest.mark.parametrize("garbage", [b"\xff" * 100, b"\x12\x05ab", b"\x22\xff\xff\xff\xff\x0f"])
    def test_invalid_bytes_end_the_rpc_with_a_status(
        self, client: Client, frames: Frames, pipe: MakePipe, garbage: bytes
    ) -> None:
        told = pipe("told")
        frames.call(1, "wait", pipe=told.path.encode())
        assert told.line() == "started"
        frames.send_bytes(garbage)
        assert frames.status() == grpc.StatusCode.INVALID_ARGUMENT
        assert told.line() == "cancelled True"
        assert client.result("add", a=1) == {"result": 1}

    def test_a_frame_above_the_limit_ends_the_rpc_with_a_status(self, start: Start) -> None:
        worker = start("--max-message-size", "100000")
        with closing(Client(worker.address())) as client:
            with closing(Frames(client)) as frames:
                frames.call(1, "type_of", value=b"x" * 2_000_000)
                assert frames.status() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert client.result("add", a=1) == {"result": 1}
            with closing(Frames(client)) as frames:
                frames.call(1, "give", what=b"blob")
                assert frames.reply().error_detail.reason == "message_too_large"
                frames.call(2, "add", a=b"1")
                assert frames.reply().success

    def test_random_bytes_never_end_the_worker(self, start: Start) -> None:
        worker = start()
        with closing(Client(worker.address())) as client:
            for frame in mutilated(pb.CallFrame(call_id=1, command="add", args={"a": b"1"})):
                with closing(Frames(client)) as frames:
                    frames.send_bytes(frame)
                    frames.call(2, "add", a=b"2")
                    with contextlib.suppress(grpc.RpcError):
                        while frames.reply().call_id != 2:
                            pass
            assert client.result("add", a=1) == {"result": 1}
        assert worker.stop() == 0


def mutilated(frame: pb.CallFrame) -> Iterator[bytes]:
    whole = frame.SerializeToString()
    for place in range(len(whole)):
        yield whole[:place]
        yield whole[:place] + b"\xff" + whole[place + 1 :]
