"""Encodes the results of calls as messages of `proto/snakepit.proto`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Optional

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._errors.guards import invalid_result
from snakepit_bridge._proto.snakepit_pb2 import (
    CallEvent,
    ConverseDown,
    Demand,
    ExecuteResponse,
    InputDemand,
    Progress,
    ReplyFrame,
    StreamResponse,
    TelemetryEvent,
    ToolAsk,
)
from snakepit_bridge._two_way.tools import too_large
from snakepit_bridge._values.fields import encode_fields

#: The number of events that wait for the next message of their call, or for the client of a two-way
#: call; further ones are dropped.
MAX_EVENTS = 1000


class WaitingEvents:
    """What a command has reported: the next message of its call takes it along."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: deque[CallEvent] = deque()

    def progress(self, fraction: float, message: str) -> None:
        """Only `CallWithEvents` sends it."""

    def telemetry(self, name: str, measurements: bytes, metadata: bytes) -> bool:
        has_room = len(self._events) < MAX_EVENTS
        if has_room:
            self._events.append(telemetry_event(name, measurements, metadata))
        return has_room

    def take(self) -> Iterator[CallEvent]:
        while self._events:
            yield self._events.popleft()


def telemetry_event(name: str, measurements: bytes, metadata: bytes) -> CallEvent:
    return CallEvent(
        telemetry=TelemetryEvent(name=name, measurements=measurements, metadata=metadata)
    )


class UnaryWire:
    """Encodes an `ExecuteResponse`. If the call found no room, `on_full` is told why."""

    __slots__ = ("_limit", "_on_full", "_request_id", "batch", "outcome", "waiting")

    def __init__(self, request_id: str, limit: int, on_full: Callable[[str], object] = str) -> None:
        self._request_id = request_id
        self._limit = limit
        self._on_full = on_full
        self.outcome = "ok"
        self.waiting = WaitingEvents()
        self.batch = (0, 0)

    def result(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> bytes:
        message = ExecuteResponse(
            success=True,
            result=fields,
            timestamp=time.time_ns(),
            request_id=self._request_id,
            result_kinds=kinds,
            events=self.waiting.take(),
            batch_size=self.batch[0],
            batch_wait_us=self.batch[1],
        )
        return _checked(message.SerializeToString(), self._limit)

    def failure(self, failure: CallError) -> bytes:
        self.outcome = failure.reason
        if failure.reason == "pool_saturated":
            self._on_full(failure.message)
        return ExecuteResponse(
            error=str(failure),
            timestamp=time.time_ns(),
            request_id=self._request_id,
            error_detail=failure.detail(),
            events=self.waiting.take(),
            batch_size=self.batch[0],
            batch_wait_us=self.batch[1],
        ).SerializeToString()


class EventWire:
    """Passes what the command reports to `send` at once."""

    __slots__ = ("_send",)

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self._send = send

    def progress(self, fraction: float, message: str) -> None:
        self._event(CallEvent(progress=Progress(fraction=fraction, message=message)))

    def telemetry(self, name: str, measurements: bytes, metadata: bytes) -> bool:
        return self._event(telemetry_event(name, measurements, metadata))

    def _event(self, event: CallEvent) -> bool:
        raise NotImplementedError


class FrameWire(EventWire):
    """Encodes `ReplyFrame`s; what the command reports is passed to `send` at once."""

    __slots__ = ("_call_id", "_limit", "batch", "outcome")

    def __init__(self, limit: int, send: Callable[[bytes], bool], call_id: int = 0) -> None:
        super().__init__(send)
        self._limit = limit
        self._call_id = call_id
        self.outcome = "ok"
        self.batch = (0, 0)

    def _event(self, event: CallEvent) -> bool:
        return self._send(ReplyFrame(act=ReplyFrame.EVENT, event=event).SerializeToString())

    def result(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> bytes:
        message = ReplyFrame(
            call_id=self._call_id,
            success=True,
            result=fields,
            result_kinds=kinds,
            batch_size=self.batch[0],
            batch_wait_us=self.batch[1],
        )
        return _checked(self._wrapped(message), self._limit)

    def failure(self, failure: CallError) -> bytes:
        self.outcome = failure.reason
        message = ReplyFrame(
            call_id=self._call_id,
            error=str(failure),
            error_detail=failure.detail(),
            batch_size=self.batch[0],
            batch_wait_us=self.batch[1],
        )
        return self._wrapped(message)

    def _wrapped(self, message: ReplyFrame) -> bytes:
        return message.SerializeToString()


class StreamWire:
    """Encodes `StreamResponse`s. If the call found no room, `on_full` is told why."""

    __slots__ = ("_limit", "_on_full", "_request_id", "outcome", "waiting")

    def __init__(self, request_id: str, limit: int, on_full: Callable[[str], object] = str) -> None:
        self._request_id = request_id
        self._limit = limit
        self._on_full = on_full
        self.outcome = "ok"
        self.waiting = WaitingEvents()

    def events(self) -> Iterator[bytes]:
        for event in self.waiting.take():
            yield StreamResponse(event=event).SerializeToString()

    def chunk(
        self, fields: Mapping[str, bytes], kinds: Optional[bytes], index: int, *, final: bool
    ) -> bytes:
        message = StreamResponse(
            is_final=final,
            chunk=fields,
            timestamp=time.time_ns(),
            request_id=self._request_id,
            chunk_index=index,
            chunk_kinds=kinds,
        )
        return _checked(message.SerializeToString(), self._limit)

    def failure(self, failure: CallError, index: int = 0) -> bytes:
        self.outcome = failure.reason
        if failure.reason == "pool_saturated":
            self._on_full(failure.message)
        return StreamResponse(
            is_final=True,
            error=str(failure),
            timestamp=time.time_ns(),
            request_id=self._request_id,
            chunk_index=index,
            error_detail=failure.detail(),
        ).SerializeToString()


class ConverseWire(FrameWire):
    """Encodes the messages of a two-way call, except its chunks.

    What the command reports is passed to `report`, and other messages to `send`.
    """

    __slots__ = ("_kinds", "_on_full", "_send_other")

    def __init__(
        self,
        limit: int,
        send: Callable[[bytes], object],
        call_id: int,
        *,
        report: Callable[[bytes], bool],
        kinds: bool,
        on_full: Callable[[str], object],
    ) -> None:
        super().__init__(limit, report, call_id)
        self._send_other = send
        #: Whether the client reads the kinds of values.
        self._kinds = kinds
        self._on_full = on_full

    def failure(self, failure: CallError) -> bytes:
        if failure.reason == "pool_saturated":
            self._on_full(failure.message)
        return super().failure(failure)

    def ask(self, ask_id: int, tool: str, args: dict[str, Any], timeout: Optional[float]) -> None:
        with invalid_result:
            fields, kinds = encode_fields(args, "args", kinds=self._kinds)
        size = sum(map(len, fields.values()))
        if size > self._limit:
            raise too_large(size, self._limit)
        timeout_us = 0 if timeout is None else max(1, int(timeout * 1_000_000))
        ask = ToolAsk(ask_id=ask_id, tool=tool, args=fields, arg_kinds=kinds, timeout_us=timeout_us)
        self._converse(ConverseDown(asks=[ask]))

    def withdraw(self, ask_id: int) -> None:
        self._converse(ConverseDown(withdrawn_asks=[ask_id]))

    def demand(self, input_id: int, count: int, size: int) -> None:
        demand = InputDemand(input_id=input_id, demand=Demand(count=count, bytes=size))
        self._converse(ConverseDown(input_demands=[demand]))

    def stop(self, input_id: int) -> None:
        self._converse(ConverseDown(stopped_inputs=[input_id]))

    def _event(self, event: CallEvent) -> bool:
        return self._send(ConverseDown(events=[event]).SerializeToString())

    def _wrapped(self, message: ReplyFrame) -> bytes:
        return ConverseDown(reply=message).SerializeToString()

    def _converse(self, message: ConverseDown) -> None:
        self._send_other(message.SerializeToString())


class ConverseChunks(StreamWire):
    """Encodes the chunks of a two-way call; another wire sends what the command reports."""

    __slots__ = ("counted",)

    def __init__(self, request_id: str, limit: int, on_full: Callable[[str], object]) -> None:
        super().__init__(request_id, limit, on_full)
        #: How many bytes of the last chunk count; None if it needs no demand.
        self.counted: Optional[int] = None

    def chunk(
        self, fields: Mapping[str, bytes], kinds: Optional[bytes], index: int, *, final: bool
    ) -> bytes:
        message = super().chunk(fields, kinds, index, final=final)
        self.counted = sum(map(len, fields.values()))
        return _as_chunk(message)

    def failure(self, failure: CallError, index: int = 0) -> bytes:
        self.counted = None
        return _as_chunk(super().failure(failure, index))


def _as_chunk(message: bytes) -> bytes:
    """A `ConverseDown` with an encoded chunk: its first field."""
    header = bytearray(b"\n")
    size = len(message)
    while size >> 7:
        header.append(size % 128 + 128)
        size >>= 7
    header.append(size)
    return bytes(header) + message


def _checked(message: bytes, limit: int) -> bytes:
    if len(message) > limit:
        raise CallError.too_large(len(message), limit)
    return message
