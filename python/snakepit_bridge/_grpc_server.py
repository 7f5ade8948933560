"""The worker's gRPC server, on grpcio's asyncio API. Only this file and `_grpc_sinks` need grpcio."""

from __future__ import annotations

import argparse
import asyncio
import functools
import hmac
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Optional, Union

import grpc
import grpc.aio

from snakepit_bridge import _address
from snakepit_bridge._adapter import Adapter
from snakepit_bridge._call import Call
from snakepit_bridge._context import Context
from snakepit_bridge._failure import Failure
from snakepit_bridge._grpc_sinks import StreamSink, UnarySink
from snakepit_bridge._mailbox import Mailbox
from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._runner import Runner
from snakepit_bridge._values import decode_fields
from snakepit_bridge._worker import Worker, system_info

_SECRET = "x-snakepit-secret"
#: How long before its own deadline a Health that awaits a call answers.
_HEALTH_MARGIN = 0.05

_Request = Union[pb.ExecuteRequest, pb.SessionRequest]
_Sink = Union[UnarySink, StreamSink]
_Rpc = grpc.aio.ServicerContext[Any, Any]

_log = logging.getLogger("snakepit_bridge")


def run(
    adapter: Adapter, options: argparse.Namespace, *, secret: str, ready: Callable[[str], None]
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    return asyncio.run(_serve(adapter, options, secret, ready))


async def _serve(
    adapter: Adapter, options: argparse.Namespace, secret: str, ready: Callable[[str], None]
) -> int:
    _address.check(options.listen)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    mailbox = Mailbox(asyncio.get_running_loop())
    worker = Worker(
        adapter, mailbox, worker_id=options.worker_id, max_concurrency=options.max_concurrency
    )
    server = grpc.aio.server(options=_channel_options(options.max_message_size))
    service = _Service(worker, mailbox, options.max_message_size, secret)
    server.add_generic_rpc_handlers((service,))
    address = _bind(server, options.listen)
    await server.start()
    ready(address)
    await stopped.wait()
    await _shut_down(server, worker.runner, options.shutdown_timeout)
    adapter.close()
    return 0


def _channel_options(max_message_size: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_size),
        ("grpc.max_send_message_length", max_message_size),
        ("grpc.so_reuseport", 0),
    ]


def _bind(server: grpc.aio.Server, address: str) -> str:
    kind, _, rest = address.partition(":")
    try:
        port = server.add_insecure_port(address if kind == "unix" else rest)
    except RuntimeError as error:
        raise _address.in_use(address, error) from None
    return address if kind == "unix" else f"tcp:{rest.rpartition(':')[0]}:{port}"


async def _shut_down(server: grpc.aio.Server, runner: Runner, timeout: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    await server.stop(timeout)
    try:
        await _gone(runner, None, end - loop.time())
    except asyncio.TimeoutError:
        # A handler that never returns would hold up the interpreter's own shutdown.
        _log.warning("stopping although a command is still running after %s s", timeout)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


async def _gone(runner: Runner, call_id: Optional[int], timeout: Optional[float]) -> None:
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell() -> None:
        if not gone.done():
            gone.set_result(None)

    runner.watch(call_id, tell)
    try:
        await asyncio.wait_for(gone, None if timeout is None else max(0.0, timeout))
    finally:
        runner.unwatch(tell)


class _Service(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, worker: Worker, mailbox: Mailbox, limit: int, secret: str) -> None:
        self._worker = worker
        self._mailbox = mailbox
        self._limit = limit
        self._secret = secret.encode()
        self._loop = asyncio.get_running_loop()
        execute, session = pb.ExecuteRequest.FromString, pb.SessionRequest.FromString
        unary = functools.partial(grpc.unary_unary_rpc_method_handler, self._execute)
        stream = functools.partial(grpc.unary_stream_rpc_method_handler, self._execute_stream)
        self._methods = {
            "Execute": unary(execute),
            "ExecuteInSession": unary(session),
            "ExecuteStream": stream(execute),
            "ExecuteInSessionStream": stream(session),
            "Health": grpc.unary_unary_rpc_method_handler(
                self._health, pb.HealthRequest.FromString, pb.HealthResponse.SerializeToString
            ),
            "GetInfo": grpc.unary_unary_rpc_method_handler(
                self._get_info, pb.InfoRequest.FromString, pb.InfoResponse.SerializeToString
            ),
        }
        self._methods = {
            f"/snakepit.SnakepitBridge/{name}": method for name, method in self._methods.items()
        }
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if self._secret and not self._is_trusted(details):
            return self._refusal
        return self._methods.get(details.method)

    def _is_trusted(self, details: grpc.HandlerCallDetails) -> bool:
        given = dict(details.invocation_metadata or ()).get(_SECRET, "")
        return hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._secret)

    async def _execute(self, request: _Request, rpc: _Rpc) -> bytes:
        sink = UnarySink(self._loop, self._mailbox, request.request_id, self._limit)
        call = self._accept(request, rpc, sink, stream=False)
        try:
            return await sink.response()
        except asyncio.CancelledError:
            self._cancel(call, sink, None)
            raise

    async def _execute_stream(self, request: _Request, rpc: _Rpc) -> None:
        sink = StreamSink(self._loop, self._mailbox, request.request_id, self._limit)
        call = self._accept(request, rpc, sink, stream=True)
        try:
            while (message := await sink.next()) is not None:
                await rpc.write(message)
        except BaseException:
            self._cancel(call, sink, None)
            raise

    def _accept(
        self, request: _Request, rpc: _Rpc, sink: _Sink, *, stream: bool
    ) -> Optional[Call]:
        try:
            command = self._worker.registry.find(request.command, stream=stream)
        except Failure as failure:
            self._worker.runner.refuse(sink, failure)
            return None
        remaining = rpc.time_remaining()
        seconds = request.timeout_ms / 1000 if remaining is None else remaining
        context = Context(
            request_id=request.request_id,
            session_id=request.session_id if isinstance(request, pb.SessionRequest) else None,
            worker_id=self._worker.worker_id,
            deadline=time.monotonic() + seconds if seconds > 0 else None,
            metadata=functools.partial(_metadata, rpc),
        )
        args = functools.partial(decode_fields, request.args)
        call = Call(command, args, context, sink, call_id=request.call_id)
        if remaining is None and seconds > 0:
            timeout = Failure("timeout", f"no result within timeout_ms={request.timeout_ms}")
            self._loop.call_later(seconds, self._cancel, call, sink, timeout)
        self._worker.runner.submit(call)
        return call

    def _cancel(self, call: Optional[Call], sink: _Sink, failure: Optional[Failure]) -> None:
        sink.abort(failure)
        if call is not None:
            self._worker.runner.cancel(call)

    async def _health(self, request: pb.HealthRequest, rpc: _Rpc) -> pb.HealthResponse:
        if request.await_call_id:
            remaining = rpc.time_remaining()
            timeout = None if remaining is None else remaining - _HEALTH_MARGIN
            try:
                await _gone(self._worker.runner, request.await_call_id, timeout)
            except asyncio.TimeoutError:
                pass
        return pb.HealthResponse(
            healthy=True,
            worker_id=self._worker.worker_id,
            uptime_ms=self._worker.uptime_ms(),
            total_requests=self._worker.runner.handled,
            total_errors=self._worker.runner.failed,
            version=self._worker.version,
            running_call_ids=self._worker.runner.running_call_ids(),
        )

    async def _get_info(self, request: pb.InfoRequest, rpc: _Rpc) -> pb.InfoResponse:
        worker = self._worker
        return pb.InfoResponse(
            worker_type="python",
            version=worker.version,
            supported_commands=list(worker.registry),
            capabilities=worker.capabilities() if request.include_capabilities else None,
            stats=pb.WorkerStats(**worker.stats()) if request.include_stats else None,
            system_info={**system_info(), "grpcio": grpc.__version__},
        )


def _metadata(rpc: _Rpc) -> Mapping[str, str]:
    return {
        key: value
        for key, value in rpc.invocation_metadata() or ()
        if key != _SECRET and isinstance(value, str)
    }


async def _refuse(request: bytes, rpc: _Rpc) -> NoReturn:
    await rpc.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        f"the metadata {_SECRET!r} must be the secret that the worker was started with",
    )
