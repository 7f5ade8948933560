"""Serves the commands of an adapter with Ray Serve.

    from ray import serve
    from ray.serve.config import gRPCOptions
    from snakepit_bridge.ray import app

    functions = ["snakepit_bridge.ray.add_servicer"]
    serve.start(grpc_options=gRPCOptions(port=9000, grpc_servicer_functions=functions))
    serve.run(app("my_app:Commands", max_concurrency=4, num_replicas=2), name="chat")

Each replica has one instance of the class and runs its commands as a worker of a pool does: with
their arguments, sessions, deadlines, cancellation and errors. Needs Ray:
`pip install 'snakepit-bridge[ray]'`. The guide "Beyond one machine" of Snakepit says what Ray
changes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import importlib.util
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, Optional, Protocol, TypeVar

try:
    import grpc
    from ray import serve
except ImportError as error:
    raise ImportError(
        f"{error}: snakepit_bridge.ray needs Ray Serve: pip install 'snakepit-bridge[ray]'"
    ) from None

from snakepit_bridge._cli.loading import load_commands, start
from snakepit_bridge._errors.call_error import CallError, limit_errors
from snakepit_bridge._errors.exits import StartError
from snakepit_bridge._grpcio.grpcio import MAX_RPCS, SERVICE, Service
from snakepit_bridge._grpcio.grpcio_standard import Health
from snakepit_bridge._process.options import Options
from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._servers.worker import Worker
from snakepit_bridge._threads.hook_runner import HookRunner
from snakepit_bridge._types.arrow import as_arrow
from snakepit_bridge._types.encoders import encode_frames_by, mark_unencodable
from snakepit_bridge._values.fields import encode_extended

__all__ = ["add_servicer", "app"]

_UNARY = ("Execute", "ExecuteInSession", "EndSession", "Health", "GetInfo")
_STREAMS = ("ExecuteStream", "ExecuteInSessionStream", "CallWithEvents")
_CHUNKS = ("ExecuteStream", "ExecuteInSessionStream")
#: With both, Ray asks a stream for its next chunk only when there is room for it, and ends it with
#: its call.
_HELD_BACK = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")
#: How long `session_ended` and `close` may take, in seconds.
_END_TIMEOUT = 5.0

_T = TypeVar("_T")


def app(
    adapter: str,
    *,
    init: Optional[Mapping[str, Any]] = None,
    max_concurrency: int = 1,
    max_stream_ahead: Optional[int] = None,
    max_message_size: int = 64 * 1024 * 1024,
    max_sessions: int = 10_000,
    session_ttl: float = 3600.0,
    frames: str = "lists",
    unencodable: str = "error",
    **deployment: Any,
) -> serve.Application:
    """Returns a Ray Serve application of the commands of the class at `adapter`, "module:Class".

    The replicas import the class: `ray_actor_options={"runtime_env": {"working_dir": ...}}` or
    their `PYTHONPATH` must let them. `init` has the keyword arguments of its `__init__`.

    At most `max_concurrency` commands of a replica run at once. Ray sends it no more requests than
    that, unless `max_ongoing_requests` is given; commands that take batches need more.

    Ray holds a stream back, and ends it when its caller has gone, only if it was started with
    `RAY_SERVE_ENABLE_HA_PROXY=1` and `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`. Otherwise streaming calls
    are refused, or have at most `max_stream_ahead` chunks.

    `max_message_size` (bytes), `max_sessions`, `session_ttl` (seconds), `frames` ("lists" or
    "arrow") and `unencodable` ("error" or "marker") are those of a pool. All further options are
    those of `ray.serve.deployment`: `num_replicas`, `autoscaling_config`, `ray_actor_options`, ...
    """
    module, _, name = adapter.partition(":")
    if not module or not name:
        raise ValueError(f'expected the adapter as "module:Class", got {adapter!r}')
    _check("frames", frames, ("lists", "arrow"))
    _check("unencodable", unencodable, ("error", "marker"))
    for option, value in (
        ("max_concurrency", max_concurrency),
        ("max_stream_ahead", max_stream_ahead),
    ):
        if value is not None and value < 1:
            raise ValueError(f"expected {option} to be a positive integer, got {value!r}")
    options = _AppOptions(
        adapter=adapter,
        init=encode_extended({"init": dict(init)}, "init") if init else None,
        max_concurrency=max_concurrency,
        max_stream_ahead=max_stream_ahead,
        max_message_size=max_message_size,
        max_sessions=max_sessions,
        session_ttl=session_ttl,
        frames=frames,
        unencodable=unencodable,
    )
    deployment = {"name": name, "max_ongoing_requests": max_concurrency, **deployment}
    return serve.deployment(**deployment)(Replica).bind(options)


def _check(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        expected = " or ".join(map(repr, allowed))
        raise ValueError(f"expected {option} to be {expected}, got {value!r}")


def add_servicer(servicer: Any, server: grpc.Server) -> None:
    """Adds the RPCs of Snakepit to Serve's proxy, for `gRPCOptions(grpc_servicer_functions=...)`.

    Without `Calls`, which would bind all calls of a client to one replica.
    """
    # Without deserializers: the proxy passes the messages on as they are.
    handlers: dict[str, Any] = {
        **{name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in _UNARY},
        **{
            name: grpc.unary_stream_rpc_method_handler(getattr(servicer, name)) for name in _STREAMS
        },
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))


class _AppOptions(NamedTuple):
    adapter: str
    init: Optional[bytes]
    max_concurrency: int
    max_stream_ahead: Optional[int]
    max_message_size: int
    max_sessions: int
    session_ttl: float
    frames: str
    unencodable: str


class _GrpcContext(Protocol):
    """What Serve passes to a method that has a parameter `grpc_context`."""

    def invocation_metadata(self) -> Sequence[tuple[str, str]]: ...

    def set_code(self, code: grpc.StatusCode) -> None: ...

    def set_details(self, details: str) -> None: ...


class _Message:
    """A message as Serve takes it: it asks for the bytes of whatever a method returns."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 (protobuf's name)
        return self._data


class _Details(NamedTuple):
    """What grpcio tells a service of an RPC."""

    method: str
    invocation_metadata: Sequence[tuple[str, str]]


class _Rpc:
    """An RPC that has come through Ray, as the service of grpcio sees it."""

    def __init__(self, context: _GrpcContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._ended = False
        self._callbacks: list[Callable[[], object]] = []
        self.set_code = context.set_code
        self.set_details = context.set_details

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._context.invocation_metadata()

    def time_remaining(self) -> float:
        """Ray does not pass the deadline of an RPC on; the message has it, too."""
        return float("inf")

    def is_active(self) -> bool:
        return not self._ended

    def add_callback(self, callback: Callable[[], object]) -> bool:
        with self._lock:
            if not self._ended:
                self._callbacks.append(callback)
            return not self._ended

    def end(self) -> None:
        with self._lock:
            self._ended = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


def _unary(name: str) -> Any:
    """Makes the method for a unary RPC."""

    async def answer(self: Replica, request: bytes, grpc_context: _GrpcContext) -> _Message:
        rpc = _Rpc(grpc_context)
        handler = self.handler(name, rpc)
        answered = self.in_thread(lambda: _answer(handler, request, rpc))
        try:
            return _Message(await asyncio.shield(answered))
        finally:
            rpc.end()
            # The place of a cancelled call is free when its command has ended.
            await asyncio.wait([answered])

    return answer


def _stream(name: str) -> Any:
    """Makes the method for an RPC with a stream of answers."""

    async def answers(
        self: Replica, request: bytes, grpc_context: _GrpcContext
    ) -> AsyncGenerator[_Message, None]:
        rpc = _Rpc(grpc_context)
        handler = self.handler(name, rpc)
        messages = self.bounded(name, _answers(handler, request, rpc))
        step = functools.partial(next, messages, None)
        try:
            while True:
                stepped = self.in_thread(step)
                message = await asyncio.shield(stepped)
                if message is None:
                    return
                yield _Message(message)
        finally:
            rpc.end()
            await asyncio.wait([stepped])
            await self.in_thread(messages.close)

    return answers


def _answer(handler: Any, request: bytes, rpc: _Rpc) -> bytes:
    answer = handler.unary_unary(handler.request_deserializer(request), rpc)
    # The messages of calls are encoded already.
    write = handler.response_serializer or bytes
    data: bytes = write(answer)
    return data


def _answers(handler: Any, request: bytes, rpc: _Rpc) -> Generator[bytes, None, None]:
    yield from handler.unary_stream(handler.request_deserializer(request), rpc)


class Replica:
    """A replica: the service of the grpcio server, whose RPCs come through Ray.

    The instance of the class lives in a thread of its own, which is to a replica what the main
    thread is to a worker.
    """

    Execute = _unary("Execute")
    ExecuteInSession = _unary("ExecuteInSession")
    EndSession = _unary("EndSession")
    Health = _unary("Health")
    GetInfo = _unary("GetInfo")
    ExecuteStream = _stream("ExecuteStream")
    ExecuteInSessionStream = _stream("ExecuteInSessionStream")
    CallWithEvents = _stream("CallWithEvents")

    def __init__(self, options: _AppOptions) -> None:
        self._options = options
        self._held_back = all(os.environ.get(name) == "1" for name in _HELD_BACK)
        ready: concurrent.futures.Future[Worker] = concurrent.futures.Future()
        name = "snakepit-main"
        self._main = threading.Thread(target=self._serve, args=(ready,), name=name, daemon=True)
        self._main.start()
        self._worker = ready.result()
        as_of_worker = Options(max_message_size=options.max_message_size, access_log=False)
        self._service = Service(self._worker, as_of_worker, [], Health(), has_converse=False)
        self._threads = concurrent.futures.ThreadPoolExecutor(
            MAX_RPCS + options.max_concurrency, thread_name_prefix="snakepit-rpc"
        )

    def __del__(self) -> None:
        """Ray calls it before the replica ends, when its requests have ended."""
        if hasattr(self, "_worker"):
            self._worker.main.close()
            self._main.join()

    def handler(self, method: str, rpc: _Rpc) -> Any:
        """Returns what answers an RPC. It is called in the order in which the RPCs arrive."""
        details: Any = _Details(f"/{SERVICE}/{method}", rpc.invocation_metadata())
        return self._service.service(details)

    def in_thread(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function)

    def bounded(
        self, method: str, messages: Generator[bytes, None, None]
    ) -> Generator[bytes, None, None]:
        """Limits how far a stream may be ahead of its client, if Ray does not."""
        if method not in _CHUNKS or self._held_back:
            return messages
        return _bounded(messages, self._options.max_stream_ahead)

    def _serve(self, ready: concurrent.futures.Future[Worker]) -> None:
        options = self._options
        try:
            mark_unencodable(mark=options.unencodable == "marker")
            limit_errors(options.max_message_size)
            encode_frames_by(as_arrow if options.frames == "arrow" else None)
            _check_module(options.adapter)
            registry = load_commands(options.adapter, (), options.init)
            hooks = HookRunner(registry.hooks)
            start(hooks, options.adapter)
            sessions = hooks.sessions(options.max_sessions, options.session_ttl)
            worker = Worker(
                registry,
                worker_id=serve.get_replica_context().replica_tag,
                max_concurrency=options.max_concurrency,
                sessions=sessions,
            )
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(worker)
        worker.main.serve()
        hooks.end(sessions, _END_TIMEOUT)


def _bounded(
    messages: Generator[bytes, None, None], most: Optional[int]
) -> Generator[bytes, None, None]:
    variables = " and ".join(f"{name}=1" for name in _HELD_BACK)
    ways = (
        f"start Ray with {variables}, or give app() a {'larger ' if most else ''}max_stream_ahead"
    )
    with contextlib.closing(messages):
        if most is None:
            yield _failed(f"Ray Serve does not hold streams back here: {ways}")
            return
        for number, message in enumerate(messages):
            if number == most:
                yield _failed(
                    f"the stream has more than {most} chunks (max_stream_ahead), and Ray Serve "
                    f"does not hold streams back here: {ways}"
                )
                return
            yield message


def _failed(why: str) -> bytes:
    failure = CallError("streaming_not_supported", why)
    return pb.StreamResponse(
        is_final=True, error=str(failure), error_detail=failure.detail()
    ).SerializeToString()


def _check_module(adapter: str) -> None:
    """Raises a `StartError` in the words of `app` if there is no such module."""
    module = adapter.partition(":")[0]
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise StartError(
            f"no module {package!r} for the adapter {adapter}: make it known to the replicas, for "
            'example with ray_actor_options={"runtime_env": {"working_dir": "."}}'
        )
