"""The worker's server in Rust, an extension module; Python runs the commands."""

from __future__ import annotations

import contextvars
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Optional, Union

from snakepit_bridge import _native
from snakepit_bridge._arguments.inputs import no_inputs
from snakepit_bridge._commands import context_variables
from snakepit_bridge._commands.context import Context, ask_rust_for_request_ids, running
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._commands.sessions import SessionKey
from snakepit_bridge._commands.system_info import system_info
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._errors.exits import StartError, exit_fork
from snakepit_bridge._errors.guards import invalid_args, invalid_result
from snakepit_bridge._errors.raised import is_task_cancelled, shown
from snakepit_bridge._errors.two_way import CallCancelledError, InputError, ToolError
from snakepit_bridge._native import Server
from snakepit_bridge._network.address import bind_first
from snakepit_bridge._process.listening import Listening
from snakepit_bridge._process.memory import resident_bytes
from snakepit_bridge._process.options import Options
from snakepit_bridge._process.parent import Parent
from snakepit_bridge._servers.serving import INSTANCE_ID, Serving
from snakepit_bridge._telemetry import tracing
from snakepit_bridge._telemetry.access import log_call
from snakepit_bridge._threads import unwrapping
from snakepit_bridge._threads.hook_runner import HookRunner
from snakepit_bridge._threads.main_thread import MainThread
from snakepit_bridge._threads.results import is_result
from snakepit_bridge._two_way import tools
from snakepit_bridge._two_way.inputs import Input, Source
from snakepit_bridge._values.fields import (
    decode,
    decode_fields,
    encode,
    encode_fields,
)
from snakepit_bridge._version import __version__

_log = logging.getLogger("snakepit_bridge")


def run(
    registry: Registry, hooks: HookRunner, options: Options, parent: Parent, listening: Listening
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    serving = Serving(hooks, options, by_itself=not parent.is_beam)
    sessions = serving.sessions
    callbacks = _Callbacks(registry, options.worker_id, serving)
    settings = {
        **vars(options),
        "secrets": listening.secrets,
        "max_queue": listening.max_queue,
        "is_shared": not parent.is_beam,
        "version": __version__,
        "system_info": list(system_info().items()),
        "start_journal": parent.start_journal,
        "instance_id": INSTANCE_ID,
    }
    ask_rust_for_request_ids(_native.request_id)
    server = Server(registry, callbacks, options.max_concurrency, settings)
    callbacks.server = server
    os.register_at_fork(after_in_child=server.forked)
    address = _listen(server, listening)
    if server.has_async:
        callbacks.serve_loop()
    if options.max_concurrency == 1:
        sessions.post = server.post
    else:
        main = MainThread()
        sessions.post, sessions.call = main.post, main.call
    parent.ready(address)
    drain = parent.draining or functools.partial(_drain, server, parent)
    finish, cancel = functools.partial(_finish, server), functools.partial(_cancel, server)
    if options.max_concurrency == 1:
        serving.signals.on_other = server.wake
        serving.stop_from_thread(drain, finish, cancel, server.end_threads)
        server.serve()
    else:
        callbacks.start_thread()
        serving.serve(main, drain, finish, cancel)
        server.end_threads()
    callbacks.join()
    serving.end()
    server.close()
    return 0


def _listen(server: Server, listening: Listening) -> str:
    def listen(address: str) -> str:
        return server.listen(address, listening.tls)

    try:
        address = bind_first(listening.address, listen)
    except ValueError as error:
        raise StartError(f"--tls-cert, --tls-key or --client-ca: {error}") from None
    if listening.health_address:
        bind_first(listening.health_address, server.listen_for_health)
    if listening.token_file:
        listening.token_file.watch(lambda _tokens: server.set_secrets(listening.secrets))
    return address


def _drain(server: Server, parent: Parent) -> None:
    parent.stopping()
    server.drain()


def _finish(server: Server, seconds: float) -> bool:
    server.stop()
    until = time.monotonic() + seconds
    if seconds:
        server.wait_drained(seconds)
    return server.wait_idle(max(0.0, until - time.monotonic()))


def _cancel(server: Server, seconds: float) -> bool:
    server.cancel_all()
    return server.wait_idle(seconds)


class _Callbacks:
    """The methods that the server in Rust calls."""

    def __init__(self, registry: Registry, worker_id: str, serving: Serving) -> None:
        self.server: Server
        self._registry = registry
        self.context = functools.partial(
            Context._of_native_call,  # noqa: SLF001 (not for users)
            sessions=serving.sessions,
            worker_id=worker_id,
        )
        self._sessions = serving.sessions
        self._signals = serving.signals
        self._threads: list[threading.Thread] = []
        self._async_calls: Optional[object] = None

    def serve_loop(self) -> None:
        """Has the event loop start `async` calls, and end the waits of commands."""
        if self._async_calls is None:
            from snakepit_bridge._threads.async_for_native import AsyncCalls

            self._async_calls = AsyncCalls(self.server, self._sessions)

    def input(self, name: str, source: Source, batching: bool) -> Input[Any]:  # noqa: FBT001
        if batching:
            raise no_inputs(name)
        return Input(name, source)

    def cancelled(self) -> CallCancelledError:
        return CallCancelledError()

    def tool_failed(self, tool: str, code: str, message: str, data: bytes) -> ToolError:
        return tools.failed(code, message, data, tool)

    def tool_timed_out(self, tool: str, timeout: Optional[float]) -> ToolError:
        return tools.timed_out(tool, timeout)

    def input_failed(self, kind: str, message: str) -> InputError:
        return InputError(message, type=kind)

    def start_thread(self) -> None:
        number = len(self._threads) + 1
        thread = threading.Thread(
            target=self.server.serve, name=f"snakepit-command-{number}", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def call_context(self) -> Callable[[], contextvars.Context]:
        return context_variables.maker()

    def trace(self, context: contextvars.Context, metadata: Mapping[str, str]) -> None:
        tracing.attach_in(context, metadata)

    def restore_signals(self) -> None:
        self._signals.restore()

    def signal_failed(self, error: BaseException) -> None:
        _log.error("a signal's handler raised %s outside of any call", shown(error))

    def refusal(self, name: str, stream: bool) -> CallError:  # noqa: FBT001
        try:
            self._registry.find(name, stream=stream)
        except CallError as refusal:
            return refusal
        return CallError(
            "unknown_command", f"the command {name!r} was called before the worker was ready"
        )

    def end_session(self, session_id: str, client_id: int, generation: int) -> bool:
        return self._sessions.end(SessionKey(session_id, client_id), generation)

    def figures(self) -> tuple[int, int]:
        """Returns the number of sessions, and the memory of this process in bytes."""
        return self._sessions.count, resident_bytes()

    def failure(self, error: BaseException, cancelled: bool, command: str) -> CallError:  # noqa: FBT001
        exit_fork(error)
        kind = type(error)
        if issubclass(kind, CallError):
            return error  # type: ignore[return-value]
        if not cancelled:
            return CallError.of(error)
        failure = CallError("cancelled", "the call was cancelled")
        failure.closed = is_task_cancelled(kind)
        if not failure.closed and not issubclass(kind, (GeneratorExit, CallCancelledError)):
            _log.info("%s raised %s after it was cancelled", command, shown(error))
        return failure

    def panicked(self, command: str, panic: str) -> None:
        _log.error(
            "Snakepit's native server panicked while it served a call of %s: %s", command, panic
        )

    def access(
        self, peer: str, command: str, request_id: str, outcome: str, seconds: float
    ) -> None:
        log_call(peer, command, request_id, outcome, seconds)

    def close_failed(self, command: str, error: BaseException) -> None:
        _log.warning("%s raised %s when it was closed", command, shown(error))

    def is_result(self, value: object) -> bool:
        return is_result(value)

    def unwrap(
        self,
        value: object,
        call: _native.AsyncCall,
        name: str,
        stream: bool,  # noqa: FBT001
    ) -> tuple[object, Optional[Generator[object, None, object]]]:
        """Calls `unwrapping.unwrap` for a value that Rust cannot encode itself."""
        _set_running(call)
        return unwrapping.unwrap(value, call, name, stream=stream)

    def wait_for(self, value: object, batch: _native.BatchRun) -> object:
        """Calls `unwrapping.wait_for` for what a command that takes batches has returned."""
        _set_running(batch)
        return unwrapping.wait_for(value, batch)

    def leave_fork(self) -> None:
        exit_fork()

    def encode(self, value: object, root: str, name: str, kinds: bool) -> tuple[int, bytes]:  # noqa: FBT001
        with invalid_result:
            return encode(value, root, name, kinds=kinds)

    def encode_whole(self, value: object, root: str, kinds: bool) -> tuple[int, bytes]:  # noqa: FBT001
        with invalid_result:
            return encode(value, root, kinds=kinds)

    def encode_fields(
        self,
        value: object,
        root: str,
        kinds: bool,  # noqa: FBT001
    ) -> tuple[dict[str, bytes], Optional[bytes]]:
        """Encodes the fields of a dict that has a key of another type than `str`."""
        with invalid_result:
            return encode_fields(value, root, kinds=kinds)

    def decode(self, data: bytes, name: str, kind: int) -> object:
        with invalid_args:
            return decode(data, name, kind)

    def decode_fields(self, fields: Mapping[str, bytes], kinds: bytes) -> dict[str, object]:
        with invalid_args:
            return decode_fields(fields, kinds)


def _set_running(call: Union[_native.AsyncCall, _native.BatchRun]) -> None:
    if running.get() is None:
        running.set(Context(request_id=call.request_id))
