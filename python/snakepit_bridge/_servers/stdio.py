"""The worker's server over stdin and stdout: 4 bytes of length, big-endian, then extended JSON."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Optional

from snakepit_bridge._commands.call import Call
from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._commands.sessions import SessionKey
from snakepit_bridge._commands.system_info import system_info
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._errors.exits import kill_group
from snakepit_bridge._process.options import Options
from snakepit_bridge._servers.serving import Serving
from snakepit_bridge._servers.stdio_wire import Asking, StdioWire, refusal, response
from snakepit_bridge._servers.worker import Worker
from snakepit_bridge._threads import execution
from snakepit_bridge._threads.hook_runner import HookRunner
from snakepit_bridge._two_way.conversation import Conversation
from snakepit_bridge._two_way.tools import failed
from snakepit_bridge._types.invalid import InvalidValueError
from snakepit_bridge._values.extended_reader import decode_extended
from snakepit_bridge._values.extended_writer import encode_extended
from snakepit_bridge._version import __version__

_READ_AHEAD = 65536

_log = logging.getLogger("snakepit_bridge")


def run(registry: Registry, hooks: HookRunner, options: Options, pipes: tuple[int, int]) -> int:
    """Serves until SIGTERM or SIGINT, or until stdin ends; returns the exit code."""
    serving = Serving(hooks, options)
    worker = Worker(
        registry,
        worker_id=options.worker_id,
        max_concurrency=options.max_concurrency,
        sessions=serving.sessions,
    )
    # One thread more than calls may run or gather: it reads cancellations and checks meanwhile.
    most_calls = registry.batch_size * options.max_concurrency
    if any(command.is_async for command in registry.values()):
        # Otherwise the first call of one would wait for this import.
        from snakepit_bridge._threads import async_for_threads  # noqa: F401
    server = _Server(worker, options.max_message_size, pipes, most_calls + 1)
    server.start_thread()
    finish = functools.partial(worker.runner.wait_idle, None)
    serving.serve(worker.main, server.say_draining, finish, server.cancel_all)
    serving.end()
    return 0


class _Server:
    """Its threads take turns at reading; the thread that has read a message also answers it.

    When all threads are busy, another one is started, up to `max_threads`.
    """

    def __init__(
        self, worker: Worker, limit: int, pipes: tuple[int, int], max_threads: int
    ) -> None:
        self._worker = worker
        self._max_threads = max_threads
        self._limit = limit
        self._reader = _Reader(pipes[0])
        self._turn = threading.Lock()
        self._write = _Writer(pipes[1]).write
        self._counting = threading.Lock()
        self._threads = 0
        self._at_rest = 0
        self._calls: dict[int, Call] = {}
        self._controls: dict[str, Callable[[dict[str, Any]], object]] = {
            "$health": self._health,
            "$info": self._info,
            "$cancel": self._cancel,
            "$end_session": self._end_session,
        }

    def start_thread(self) -> None:
        with self._counting:
            if self._threads == self._max_threads:
                return
            name = f"snakepit-call-{self._threads}"
            # If no thread can be started, a busy one continues reading when it has finished.
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self._serve, name=name, daemon=True).start()
                self._threads += 1
                self._at_rest += 1

    def _serve(self) -> None:
        try:
            while True:
                answer = self._next()()
                if answer is not None:
                    self._write(answer)
                # It may be large, and the next message may be long in coming.
                del answer
                with self._counting:
                    self._at_rest += 1
        except (EOFError, BrokenPipeError):
            # The parent has ended.
            pass
        except BaseException:
            _log.exception("the worker cannot read or write a message, and ends")
        finally:
            kill_group()

    def _next(self) -> Callable[[], Optional[bytes]]:
        """Reads a message, and returns what answers it."""
        with self._turn:
            message = self._reader.next()
            problems: list[str] = []
            request = decode_extended(message, problems=problems)
            # Before the next message is read, which may cancel the call.
            answer = self._begin(request, problems, len(message))
        with self._counting:
            self._at_rest -= 1
            others_at_rest = self._at_rest
        if not others_at_rest:
            self.start_thread()
        return answer

    def _begin(
        self, request: dict[str, Any], problems: list[str], size: int
    ) -> Callable[[], Optional[bytes]]:
        command = request["command"]
        if command == "$answer":
            return functools.partial(self._take_answer, request["args"], problems)
        control = self._controls.get(command)
        if control is not None:
            return functools.partial(self._control, request, control)
        try:
            call = self._call(request, problems, size)
        except BaseException as error:
            self._worker.runner.count_refused()
            return functools.partial(_refused, request, error)
        self._calls[call.call_id] = call
        return functools.partial(self._run, request, call)

    def say_draining(self) -> None:
        """Asks the parent to send no more calls."""
        with contextlib.suppress(BrokenPipeError):
            self._write(encode_extended({"draining": True}))

    def cancel_all(self, seconds: float) -> bool:
        for call in list(self._calls.values()):
            self._worker.runner.cancel(call)
        return self._worker.runner.wait_idle(None, seconds)

    def _control(
        self, request: dict[str, Any], control: Callable[[dict[str, Any]], object]
    ) -> bytes:
        try:
            return response(request["id"], control(request["args"]))
        except BaseException as error:
            return _refused(request, error)

    def _run(self, request: dict[str, Any], call: Call) -> bytes:
        try:
            wire = StdioWire(call, self._limit)
            return execution.respond(self._worker.runner, call, wire.result, wire.failure)
        except BaseException as error:
            return _refused(request, error)
        finally:
            del self._calls[call.call_id]

    def _call(self, request: dict[str, Any], problems: list[str], size: int) -> Call:
        command = self._worker.registry.find(request["command"], stream=False)
        remaining = request.get("timeout_ms")
        conversation = self._conversation(request)
        context = Context(
            request_id=request.get("request_id", ""),
            session_id=request.get("session_id"),
            session_generation=request.get("session_generation", 0),
            sessions=self._worker.sessions,
            worker_id=self._worker.worker_id,
            deadline=None if remaining is None else time.monotonic() + remaining / 1000,
            metadata=lambda: request.get("metadata", {}),
            takes_events=request.get("takes_events", 0),
            reports=_Reports(self._write, request["id"]),
            asks=conversation,
        )
        return Call(
            command,
            functools.partial(_args, request, problems),
            context,
            call_id=request["id"],
            kinds=True,
            size=size,
            conversation=conversation,
        )

    def _conversation(self, request: dict[str, Any]) -> Optional[Conversation]:
        tools = request.get("tools")
        if not tools:
            return None
        wire = Asking(request["id"], self._write, self._limit)
        return Conversation(wire, tools, request.get("max_asks", 0))

    def _take_answer(self, args: dict[str, Any], problems: list[str]) -> None:
        call = self._calls.get(args["call_id"])
        if call is not None and call.conversation is not None:
            call.conversation.answer(args["ask_id"], functools.partial(_value, args, problems))

    def _health(self, _args: dict[str, Any]) -> dict[str, Any]:
        runner = self._worker.runner
        return {
            "healthy": True,
            "worker_id": self._worker.worker_id,
            "uptime_ms": self._worker.uptime_ms(),
            "total_requests": runner.handled,
            "total_errors": runner.failed,
            "version": __version__,
            "running": len(runner.running_call_ids()),
            "batch_sizes": self._worker.registry.batch_sizes(),
            "takes_tools": True,
        }

    def _info(self, args: dict[str, Any]) -> dict[str, Any]:
        commands = self._worker.registry
        info: dict[str, Any] = {
            "worker_type": "python",
            "version": __version__,
            "supported_commands": list(commands),
            "capabilities": {name: command.help for name, command in commands.items()},
            "stats": self._worker.stats(),
            "system_info": system_info(),
        }
        if args.get("commands"):
            info["commands"] = [command.describe() for command in commands.values()]
        return info

    def _cancel(self, args: dict[str, Any]) -> dict[str, Any]:
        call: Optional[Call] = self._calls.get(args["id"])
        if call is not None:
            self._worker.runner.cancel(call)
        return {}

    def _end_session(self, args: dict[str, Any]) -> dict[str, Any]:
        key = SessionKey(args["session_id"])
        ended = self._worker.sessions.end(key, args.get("session_generation", 0))
        return {"ended": ended}


class _Reports:
    """Writes what a command reports, at once."""

    def __init__(self, write: Callable[[bytes], None], call_id: int) -> None:
        self._write = write
        self._call_id = call_id

    def progress(self, fraction: float, message: str) -> None:
        self._send({"event": "progress", "fraction": fraction, "message": message})

    def telemetry(self, name: str, measurements: bytes, metadata: bytes) -> bool:
        values = {
            "measurements": decode_extended(measurements),
            "metadata": decode_extended(metadata),
        }
        return self._send({"event": "telemetry", "name": name, **values})

    def _send(self, event: dict[str, Any]) -> bool:
        with contextlib.suppress(BrokenPipeError):
            self._write(encode_extended({"call_id": self._call_id, **event}))
            return True
        return False


def _refused(request: dict[str, Any], error: BaseException) -> bytes:
    if not isinstance(error, CallError):
        error = CallError.internal(error, request["command"])
    return encode_extended(refusal(request["id"], error))


def _args(request: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    if problems:
        raise InvalidValueError(f"args {problems[0]}")
    args: dict[str, Any] = request["args"]
    return args


def _value(answer: dict[str, Any], problems: list[str]) -> object:
    error = answer.get("error")
    if problems:
        what = "the answer" if error is None else "the data of the error"
        raise CallError("invalid_args", f"{what} {problems[0]}")
    if error is not None:
        raise failed(error["code"], error["message"], error.get("data"))
    return answer.get("value")


class _Reader:
    """Reads messages from a pipe. A buffered file would delay the exit of the interpreter."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read = bytearray()

    def next(self) -> bytes:
        return self._take(int.from_bytes(self._take(4), "big"))

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            part = os.read(self._fd, _READ_AHEAD)
            if not part:
                raise EOFError
            self._read += part
        with memoryview(self._read) as read, read[:size] as message:
            taken = bytes(message)
        del self._read[:size]
        return taken


class _Writer:
    """Writes messages to a pipe, each whole.

    In the main thread the handler of a signal may raise anywhere: the next write, which is at the
    latest that of the call's answer, begins with what is left.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        #: What is to be written, each with the numbers of bytes that were.
        self._left: deque[tuple[bytes, list[int]]] = deque()

    def write(self, message: bytes) -> None:
        size = len(message).to_bytes(4, "big")
        # Do not copy a large message only to prepend its size.
        parts = [size + message] if len(message) < _READ_AHEAD else [size, message]
        self._left.extend([(part, []) for part in parts])
        with self._lock:
            while self._left:
                part, written = self._left[0]
                while (done := sum(written)) < len(part):
                    # No handler runs between the write and the note of its number of bytes: there
                    # is no step of Python between them.
                    written.extend(map(os.write, (self._fd,), (memoryview(part)[done:],)))
                self._left.popleft()
