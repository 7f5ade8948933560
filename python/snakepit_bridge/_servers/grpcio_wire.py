"""Encodes the results of calls as messages of `proto/snakepit.proto`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Optional

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._proto.snakepit_pb2 import (
    CallEvent,
    ExecuteResponse,
    Progress,
    ReplyFrame,
    StreamResponse,
    TelemetryEvent,
)

#: The number of events that wait for the next message of their call; further ones are dropped.
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


class FrameWire:
    """Encodes `ReplyFrame`s; what the command reports is passed to `send` at once."""

    __slots__ = ("_limit", "_send", "batch", "outcome")

    def __init__(self, limit: int, send: Callable[[bytes], bool]) -> None:
        self._limit = limit
        self._send = send
        self.outcome = "ok"
        self.batch = (0, 0)

    def progress(self, fraction: float, message: str) -> None:
        self._event(CallEvent(progress=Progress(fraction=fraction, message=message)))

    def telemetry(self, name: str, measurements: bytes, metadata: bytes) -> bool:
        return self._event(telemetry_event(name, measurements, metadata))

    def _event(self, event: CallEvent) -> bool:
        return self._send(ReplyFrame(act=ReplyFrame.EVENT, event=event).SerializeToString())

    def result(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> bytes:
        message = ReplyFrame(
            success=True,
            result=fields,
            result_kinds=kinds,
            batch_size=self.batch[0],
            batch_wait_us=self.batch[1],
        )
        return _checked(message.SerializeToString(), self._limit)

    def failure(self, failure: CallError) -> bytes:
        self.outcome = failure.reason
        return ReplyFrame(
            error=str(failure),
            error_detail=failure.detail(),
            batch_size=self.batch[0],
            batch_wait_us=self.batch[1],
        ).SerializeToString()


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


def _checked(message: bytes, limit: int) -> bytes:
    if len(message) > limit:
        raise CallError.too_large(len(message), limit)
    return message
