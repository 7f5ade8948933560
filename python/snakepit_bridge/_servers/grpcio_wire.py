"""Encodes the results of calls as messages of `proto/snakepit.proto`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Optional

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._proto.snakepit_pb2 import ExecuteResponse, StreamResponse


class UnaryWire:
    """Encodes an `ExecuteResponse`."""

    __slots__ = ("_limit", "_request_id")

    def __init__(self, request_id: str, limit: int) -> None:
        self._request_id = request_id
        self._limit = limit

    def result(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> bytes:
        message = ExecuteResponse(
            success=True,
            result=fields,
            timestamp=time.time_ns(),
            request_id=self._request_id,
            result_kinds=kinds,
        )
        return _checked(message.SerializeToString(), self._limit)

    def failure(self, failure: CallError) -> bytes:
        return ExecuteResponse(
            error=str(failure),
            timestamp=time.time_ns(),
            request_id=self._request_id,
            error_detail=failure.detail(),
        ).SerializeToString()


class StreamWire:
    """Encodes `StreamResponse`s."""

    __slots__ = ("_limit", "_request_id")

    def __init__(self, request_id: str, limit: int) -> None:
        self._request_id = request_id
        self._limit = limit

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
