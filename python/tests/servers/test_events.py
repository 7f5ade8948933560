"""What commands report, as a client sees it that takes events, and one that does not know them."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from client import PATIENCE, Client

from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._telemetry.reports import TAKES_PROGRESS, TAKES_TELEMETRY


def told(event: pb.CallEvent) -> tuple[str, Any, Any]:
    values = event.telemetry
    return values.name, json.loads(values.measurements), json.loads(values.metadata)


def test_a_response_has_the_events_for_telemetry_if_the_client_takes_them(client: Client) -> None:
    response = client.begin("report", {}, takes_events=TAKES_TELEMETRY).result()
    assert response.success
    assert [told(event) for event in response.events] == [("load", {"rows": 3}, {"file": "x"})]


def test_a_client_that_takes_no_events_gets_none(client: Client) -> None:
    assert not client.execute("report").events
    assert [json.loads(chunk.chunk["result"]) for chunk in client.chunks("report_stream")] == [0, 1]


def test_events_of_a_stream_are_messages_of_their_own(client: Client) -> None:
    messages = list(client.stream("report_stream", {}, takes_events=TAKES_TELEMETRY))
    events = [told(each.event) for each in messages if each.HasField("event")]
    assert events == [("part", {"rows": part}, {}) for part in range(2)]
    chunks = [each for each in messages if not each.HasField("event")]
    assert [json.loads(chunk.chunk["result"]) for chunk in chunks] == [0, 1]
    assert [chunk.chunk_index for chunk in chunks] == [0, 1]
    assert not any(each.chunk for each in messages if each.HasField("event"))


def test_progress_is_sent_before_the_reply_to_a_call_with_events(
    client: Client, server: str
) -> None:
    call = client.channel.unary_stream(
        "/snakepit.SnakepitBridge/CallWithEvents",
        pb.CallFrame.SerializeToString,
        pb.ReplyFrame.FromString,
    )
    frame = pb.CallFrame(command="report", takes_events=TAKES_TELEMETRY + TAKES_PROGRESS)
    frames = call(frame, timeout=PATIENCE, wait_for_ready=True)
    if server == "native":
        # It has `Calls` for that.
        with pytest.raises(grpc.RpcError) as raised:
            list(frames)
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
        return
    *events, reply = frames
    assert [each.act for each in events] == [pb.ReplyFrame.EVENT] * 2
    progress = events[0].event.progress
    assert (progress.fraction, progress.message) == (0.5, "half")
    assert told(events[1].event) == ("load", {"rows": 3}, {"file": "x"})
    assert (reply.act, reply.success) == (pb.ReplyFrame.REPLY, True)
    assert reply.result == {"result": b'"reported"'}


def test_an_unknown_command_is_a_reply_of_a_call_with_events(client: Client, server: str) -> None:
    if server == "native":
        pytest.skip("the native server has no such call")
    call = client.channel.unary_stream(
        "/snakepit.SnakepitBridge/CallWithEvents",
        pb.CallFrame.SerializeToString,
        pb.ReplyFrame.FromString,
    )
    frame = pb.CallFrame(command="nothing", timeout_us=1_000_000, session_id="s")
    (reply,) = call(frame, wait_for_ready=True)
    assert not reply.success
    assert reply.error_detail.reason == "unknown_command"
