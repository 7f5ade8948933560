"""Encodes the results of calls as messages for stdout."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Optional

from snakepit_bridge._commands.call import Call
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._two_way.tools import too_large
from snakepit_bridge._types.invalid import InvalidValueError
from snakepit_bridge._values.extended_reader import decode_extended
from snakepit_bridge._values.extended_writer import encode_extended


class StdioWire:
    __slots__ = ("_call", "_limit")

    def __init__(self, call: Call, limit: int) -> None:
        self._call = call
        self._limit = limit

    def result(self, value: object) -> bytes:
        is_dict = isinstance(value, dict)
        try:
            result = value if is_dict else {"result": value}
            message = response(self._call.call_id, result, _batch(self._call))
        except InvalidValueError as error:
            text = str(error).removeprefix("message." if is_dict else "message.result.")
            raise CallError("invalid_result", text) from None
        if len(message) > self._limit:
            raise CallError.too_large(len(message), self._limit)
        return message

    def failure(self, failure: CallError) -> bytes:
        message = self._failure(failure)
        if len(message) > self._limit:
            # An escaped character takes six bytes.
            failure.fit(self._limit // 6)
            message = self._failure(failure)
        return message

    def _failure(self, failure: CallError) -> bytes:
        message = {**refusal(self._call.call_id, failure), **_batch(self._call)}
        if self._call.context.cancelled:
            message["ended"] = "closed" if self._call.closed else "stopped"
        return encode_extended(message)


class Asking:
    """Asks the tools of the client of a call."""

    def __init__(self, call_id: int, write: Callable[[bytes], object], limit: int) -> None:
        self._call_id = call_id
        self._write = write
        self._limit = limit

    def ask(self, ask_id: int, tool: str, args: dict[str, Any], timeout: Optional[float]) -> None:
        message: dict[str, Any] = {"tool": tool, "args": args}
        if timeout is not None:
            message["timeout_us"] = max(1, int(timeout * 1_000_000))
        try:
            encoded = self._event("ask", ask_id, message)
        except InvalidValueError as error:
            raise CallError("invalid_result", str(error).removeprefix("message.")) from None
        if len(encoded) > self._limit:
            raise too_large(len(encoded), self._limit)
        self._write(encoded)

    def withdraw(self, ask_id: int) -> None:
        self._write(self._event("withdraw", ask_id, {}))

    def demand(self, input_id: int, count: int, size: int) -> None:
        """Is not called: such calls have no input streams."""

    def stop(self, input_id: int) -> None:
        """Is not called."""

    def _event(self, event: str, ask_id: int, more: dict[str, Any]) -> bytes:
        return encode_extended(
            {"call_id": self._call_id, "event": event, "ask_id": ask_id, **more}, "message"
        )


def _batch(call: Call) -> dict[str, Any]:
    if not call.batch_size:
        return {}
    return {"batch_size": call.batch_size, "batch_wait_us": call.batch_wait_us}


def response(call_id: int, result: object, more: Optional[dict[str, Any]] = None) -> bytes:
    message = {"id": call_id, "success": True, "result": result, "timestamp": time.time_ns()}
    return encode_extended({**message, **more} if more else message)


def refusal(call_id: int, failure: CallError) -> dict[str, Any]:
    return {
        "id": call_id,
        "success": False,
        "error": str(failure),
        "timestamp": time.time_ns(),
        "error_detail": {"reason": failure.reason, **_more(failure)},
    }


def _more(failure: CallError) -> dict[str, Any]:
    if failure.type:
        return _exception(failure)
    return {"errors": decode_extended(failure.data)} if failure.data else {}


def _exception(failure: CallError) -> dict[str, Any]:
    detail = {
        "type": failure.type,
        "message": failure.message,
        "frames": [
            {"file": file, "line": line, "function": function, "source": source}
            for file, line, function, source in failure.frames
        ],
        "notes": failure.notes,
        "cause": None if failure.cause is None else _exception(failure.cause),
    }
    if failure.traceback:
        detail["traceback"] = failure.traceback
    if failure.reason == "command_error":
        detail["code"] = failure.code
        detail["data"] = decode_extended(failure.data) if failure.data else None
    return detail
