"""A call's results as messages of the wire contract, and their way to grpcio's event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Optional, Union

from snakepit_bridge._failure import Failure
from snakepit_bridge._mailbox import Mailbox
from snakepit_bridge._proto.snakepit_pb2 import ErrorDetail, ExecuteResponse, StreamResponse

#: How many chunks a generator may be ahead of the network.
CHUNKS_AHEAD = 32


class UnarySink:
    """One `ExecuteResponse`."""

    __slots__ = ("_future", "_limit", "_mailbox", "_request_id")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, mailbox: Mailbox, request_id: str, limit: int
    ) -> None:
        self._future: asyncio.Future[bytes] = loop.create_future()
        self._mailbox = mailbox
        self._request_id = request_id
        self._limit = limit

    async def response(self) -> bytes:
        return await self._future

    def pack(self, fields: Mapping[str, bytes], *, final: bool) -> bytes:
        return _checked(
            ExecuteResponse(
                success=True,
                result=fields,
                timestamp=time.time_ns(),
                request_id=self._request_id,
            ).SerializeToString(),
            self._limit,
        )

    def send(self, message: bytes) -> bool:
        raise NotImplementedError("a unary call has no chunks")

    async def send_async(self, message: bytes) -> bool:
        raise NotImplementedError("a unary call has no chunks")

    def end(self, outcome: Union[bytes, Failure, None]) -> None:
        if isinstance(outcome, Failure):
            outcome = self._failed(outcome)
        self._mailbox.post(self._resolve, outcome)

    def abort(self, failure: Optional[Failure]) -> None:
        """Answers with `failure`, if there is somebody to answer, whatever the command does."""
        if failure is not None:
            self._resolve(self._failed(failure))

    def _failed(self, failure: Failure) -> bytes:
        return ExecuteResponse(
            error=str(failure),
            error_detail=_detail(failure),
            timestamp=time.time_ns(),
            request_id=self._request_id,
        ).SerializeToString()

    def _resolve(self, message: bytes) -> None:
        if not self._future.done():
            self._future.set_result(message)


class StreamSink:
    """The `StreamResponse`s of one call, with a bounded number of them under way."""

    __slots__ = (
        "_asleep",
        "_changed",
        "_chunks",
        "_closed",
        "_ended",
        "_index",
        "_limit",
        "_loop",
        "_mailbox",
        "_request_id",
        "_room",
        "_wake",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, mailbox: Mailbox, request_id: str, limit: int
    ) -> None:
        self._loop = loop
        self._mailbox = mailbox
        self._request_id = request_id
        self._limit = limit
        self._index = 0
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._asleep = False
        self._closed = False
        self._ended = False
        self._wake: Optional[asyncio.Future[None]] = None
        self._room: Optional[asyncio.Future[None]] = None

    async def next(self) -> Optional[bytes]:
        """The next message, None at the end."""
        while True:
            with self._changed:
                if self._chunks:
                    message = self._chunks.popleft()
                    if len(self._chunks) == CHUNKS_AHEAD // 2:
                        self._make_room()
                    return message
                if self._ended:
                    return None
                self._wake = self._loop.create_future()
                self._asleep = True
            await self._wake

    def abort(self, failure: Optional[Failure]) -> None:
        """Drops what is under way and takes nothing more; `failure` is the last message."""
        with self._changed:
            if self._closed or self._ended:
                return
            self._closed = self._ended = True
            self._chunks.clear()
            if failure is not None:
                self._chunks.append(self._failed(failure))
            self._rouse()
            self._make_room()

    def pack(self, fields: Mapping[str, bytes], *, final: bool) -> bytes:
        index = self._index
        self._index = index + 1
        return _checked(
            StreamResponse(
                is_final=final,
                chunk=fields,
                timestamp=time.time_ns(),
                request_id=self._request_id,
                chunk_index=index,
            ).SerializeToString(),
            self._limit,
        )

    def send(self, message: bytes) -> bool:
        with self._changed:
            while len(self._chunks) >= CHUNKS_AHEAD and not self._closed:
                self._changed.wait()
            return self._put(message)

    async def send_async(self, message: bytes) -> bool:
        while len(self._chunks) >= CHUNKS_AHEAD and not self._closed:
            self._room = self._loop.create_future()
            await self._room
        with self._changed:
            return self._put(message)

    def end(self, outcome: Union[bytes, Failure, None]) -> None:
        if isinstance(outcome, Failure):
            outcome = self._failed(outcome)
        with self._changed:
            if outcome is not None:
                self._put(outcome)
            self._ended = True
            self._rouse()

    def _put(self, message: bytes) -> bool:
        if self._closed:
            return False
        self._chunks.append(message)
        self._rouse()
        return True

    def _rouse(self) -> None:
        if self._asleep:
            self._asleep = False
            self._mailbox.post(_set, self._wake)

    def _make_room(self) -> None:
        self._changed.notify_all()
        _set(self._room)

    def _failed(self, failure: Failure) -> bytes:
        return StreamResponse(
            is_final=True,
            error=str(failure),
            error_detail=_detail(failure),
            timestamp=time.time_ns(),
            request_id=self._request_id,
            chunk_index=self._index,
        ).SerializeToString()


def _set(future: Optional[asyncio.Future[None]]) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _detail(failure: Failure) -> ErrorDetail:
    return ErrorDetail(
        reason=failure.reason,
        type=failure.type,
        message=failure.message,
        traceback=failure.traceback,
    )


def _checked(message: bytes, limit: int) -> bytes:
    if len(message) > limit:
        raise Failure(
            "message_too_large",
            f"the result has {len(message)} bytes, over the limit of {limit}: send less at a time, "
            "or raise max_message_size",
        )
    return message
