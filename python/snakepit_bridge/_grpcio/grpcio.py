"""The worker's server on grpcio. Only files with this name import grpcio.

It is grpcio's threaded server: a command runs in the thread that answers its RPC. With the asyncio
server and a handler thread, a call took half as long again (measured).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent import futures
from typing import Any, NoReturn, Optional, Union
from urllib.parse import unquote

import grpc

from snakepit_bridge._commands.call import Call, arrival
from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.registry import Command, Registry
from snakepit_bridge._commands.sessions import SessionKey
from snakepit_bridge._commands.system_info import system_info
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._grpcio.grpcio_converse import Start, TwoWayCall, first_of
from snakepit_bridge._grpcio.grpcio_standard import MAX_WATCHES, Health, Reflection
from snakepit_bridge._grpcio.grpcio_wire import FrameWire, StreamWire, UnaryWire
from snakepit_bridge._grpcio.relay import TimedOutError, Waiting, relay
from snakepit_bridge._network.address import bind_first, is_private
from snakepit_bridge._network.tls import Pem
from snakepit_bridge._process.listening import UNLIMITED, Listening
from snakepit_bridge._process.options import Options
from snakepit_bridge._process.parent import Parent
from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._servers.serving import INSTANCE_ID, Serving
from snakepit_bridge._servers.worker import Worker
from snakepit_bridge._telemetry.access import log_call
from snakepit_bridge._telemetry.reports import Reports
from snakepit_bridge._threads import execution
from snakepit_bridge._threads.hook_runner import HookRunner
from snakepit_bridge._two_way.conversation import Conversation, ProtocolError
from snakepit_bridge._values.fields import decode_fields
from snakepit_bridge._version import __version__

#: The number of RPCs that may wait, besides those that run; more are refused.
MAX_RPCS = 1024
#: How long before its deadline a Health RPC that awaits a call answers, in seconds.
HEALTH_MARGIN = 0.05

#: The maximum size of a request's headers; by default grpcio refuses some from 8 KiB on.
MAX_METADATA = 64 * 1024
#: How long a client may take for the HTTP/2 handshake, in milliseconds.
HANDSHAKE_TIMEOUT = 10_000
#: The number of RPCs of one connection that may wait, besides those that run. Without a limit
#: grpcio keeps thousands of reset RPCs, and from a thousand on it cancels those of others, too.
MAX_STREAMS = 64
#: The maximum number of TCP connections: every user of the machine can connect.
MAX_CONNECTIONS = 256
#: How long a TCP connection may be without an RPC, in milliseconds. Health checks are more
#: frequent, and a pool without health checks reconnects.
MAX_IDLE = 60_000

SERVICE = "snakepit.SnakepitBridge"
_SECRET = "x-snakepit-secret"
_AUTHORIZATION = "authorization"
_REQUEST_ID = "x-request-id"
# Without a deadline grpcio's remaining time is centuries.
_ENDLESS = 1e9
#: Clients have left when no call has arrived for so long, in seconds.
QUIET = 0.2
#: How long clients may use a secret that was withdrawn, in seconds, as on the native server.
LEAVES_WITHIN = 30.0

# A client that does not know the enum reads the text.
_EXITS = {"stopped": pb.HANDLER_EXIT_STOPPED, "closed": pb.HANDLER_EXIT_CLOSED}

_Wire = Union[UnaryWire, StreamWire, FrameWire, TwoWayCall]
_Request = Union[pb.ExecuteRequest, pb.SessionRequest, pb.CallFrame]


def run(
    registry: Registry, hooks: HookRunner, options: Options, parent: Parent, listening: Listening
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    serving = Serving(hooks, options, by_itself=not parent.is_beam)
    worker = Worker(
        registry,
        worker_id=options.worker_id,
        max_concurrency=options.max_concurrency,
        sessions=serving.sessions,
        max_queue=listening.max_queue,
    )
    health = Health()
    server = _server(worker, options, listening, health)
    address = bind_first(listening.address, functools.partial(_bind, server, listening.tls))
    others = _listen_for_health(listening, health)
    server.start()
    parent.ready(address)
    drain = parent.draining or functools.partial(_drain, parent, health)
    finish = functools.partial(_finish, [server, *others], health, worker)
    cancel = functools.partial(worker.runner.wait_idle, None)
    serving.serve(worker.main, drain, finish, cancel)
    serving.end()
    return 0


def _server(worker: Worker, options: Options, listening: Listening, health: Health) -> grpc.Server:
    limit = options.max_message_size
    most_calls = worker.registry.batch_size * options.max_concurrency
    queue = MAX_RPCS if listening.max_queue == UNLIMITED else listening.max_queue
    most_rpcs = max(MAX_RPCS, queue) + most_calls + MAX_WATCHES
    most_streams = MAX_STREAMS + most_calls
    # Connections and their streams are limited already. Without this number grpcio cancels RPCs at
    # random, of any client, while more than a thousand wait until Python takes them.
    most_pending = MAX_CONNECTIONS * most_streams
    private = is_private(listening.address)
    service = Service(worker, options, listening.secrets, health)
    if listening.token_file:
        listening.token_file.watch(lambda _tokens: service.set_secrets(listening.secrets))
    return grpc.server(
        futures.ThreadPoolExecutor(most_rpcs, thread_name_prefix="snakepit-rpc"),
        handlers=[service],
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.max_metadata_size", MAX_METADATA),
            ("grpc.absolute_max_metadata_size", MAX_METADATA),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT),
            ("grpc.max_concurrent_streams", most_streams),
            ("grpc.server.max_pending_requests", most_pending),
            ("grpc.server.max_pending_requests_hard_limit", most_pending),
            ("grpc.so_reuseport", 0),
            # Clients ask whether a silent server is there, which grpcio's servers count as abuse.
            ("grpc.http2.max_ping_strikes", 0),
            *(() if private else _limits_of_strangers()),
            *_max_age(options.max_connection_age),
        ],
        maximum_concurrent_rpcs=most_rpcs,
    )


def _max_age(seconds: Optional[float]) -> tuple[tuple[str, int], ...]:
    # grpcio's own grace is endless.
    return () if seconds is None else (("grpc.max_connection_age_ms", int(seconds * 1000)),)


def _listen_for_health(listening: Listening, health: Health) -> list[grpc.Server]:
    if not listening.health_address:
        return []
    pool = futures.ThreadPoolExecutor(MAX_WATCHES + 4, thread_name_prefix="snakepit-health")
    server = grpc.server(pool, handlers=[health], options=[("grpc.so_reuseport", 0)])
    bind_first(listening.health_address, functools.partial(_bind, server, None))
    server.start()
    return [server]


def _limits_of_strangers() -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.max_connection_idle_ms", MAX_IDLE),
    )


def _bind(server: grpc.Server, pem: Optional[Pem], address: str) -> str:
    kind, _, rest = address.partition(":")
    target = address if kind == "unix" else rest
    if pem is None:
        port = server.add_insecure_port(target)
    else:
        credentials = grpc.ssl_server_credentials(
            [(pem.key, pem.certificate)], pem.client_ca, pem.client_ca is not None
        )
        port = server.add_secure_port(target, credentials)
    return address if kind == "unix" else f"tcp:{rest.rpartition(':')[0]}:{port}"


def _drain(parent: Parent, health: Health) -> None:
    parent.stopping()
    health.stop_serving()


def _finish(servers: list[grpc.Server], health: Health, worker: Worker, seconds: float) -> bool:
    # Their watches end.
    health.stop_serving()
    end = time.monotonic() + seconds
    _wait_quiet(worker, seconds / 2)
    left = max(0.0, end - time.monotonic())
    # It cancels the calls that have not ended by then, and those that arrive from now on.
    for stopped in [server.stop(left) for server in servers]:
        stopped.wait()
    return worker.runner.wait_idle(None, 0)


def _wait_quiet(worker: Worker, seconds: float) -> None:
    """Returns when clients have left, as their health checks ask them to, or after `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        arrived = worker.runner.arrived()
        time.sleep(min(QUIET, left))
        if worker.runner.arrived() == arrived:
            return


def _is_one_of(secrets: list[bytes], given: Union[str, bytes]) -> bool:
    import hmac

    given = given.encode() if isinstance(given, str) else given
    if given[:7].lower() == b"bearer ":
        given = given[7:]
    # All are compared, so that the time says nothing.
    return sum(hmac.compare_digest(given, secret) for secret in secrets) > 0


class Service(grpc.GenericRpcHandler):
    """Serves the RPCs. Two-way calls need streams in both directions, which not every proxy has."""

    def __init__(
        self,
        worker: Worker,
        options: Options,
        secrets: list[str],
        health: Health,
        *,
        has_converse: bool = True,
    ) -> None:
        self._worker = worker
        self._has_converse = has_converse
        self._limit = options.max_message_size
        self._logs_calls = options.access_log
        self._health_v1 = health
        self._reflection = Reflection()
        self._secrets: list[bytes] = []
        #: Former secrets, and until when they still count.
        self._withdrawn: dict[bytes, float] = {}
        self.set_secrets(secrets)
        # A handler that takes a stream does not wait for a request, which may never arrive.
        self._refusal: Any = grpc.stream_unary_rpc_method_handler(_refuse)
        unary = (grpc.unary_unary_rpc_method_handler, self._execute)
        stream = (grpc.unary_stream_rpc_method_handler, self._execute_stream)
        execute, session = pb.ExecuteRequest.FromString, pb.SessionRequest.FromString
        self._calls: dict[str, tuple[Callable[..., Any], ...]] = {
            f"/{SERVICE}/Execute": (*unary, execute),
            f"/{SERVICE}/ExecuteInSession": (*unary, session),
            f"/{SERVICE}/ExecuteStream": (*stream, execute),
            f"/{SERVICE}/ExecuteInSessionStream": (*stream, session),
            f"/{SERVICE}/CallWithEvents": (
                grpc.unary_stream_rpc_method_handler,
                self._call_with_events,
                pb.CallFrame.FromString,
            ),
            f"/{SERVICE}/Converse": (
                grpc.stream_stream_rpc_method_handler,
                self._converse,
                pb.ConverseUp.FromString,
            ),
        }
        self._others = {
            f"/{SERVICE}/Health": grpc.unary_unary_rpc_method_handler(
                self._health, pb.HealthRequest.FromString, pb.HealthResponse.SerializeToString
            ),
            f"/{SERVICE}/EndSession": grpc.unary_unary_rpc_method_handler(
                self._end_session,
                pb.EndSessionRequest.FromString,
                pb.EndSessionResponse.SerializeToString,
            ),
            f"/{SERVICE}/GetInfo": grpc.unary_unary_rpc_method_handler(
                self._get_info, pb.InfoRequest.FromString, pb.InfoResponse.SerializeToString
            ),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of an RPC.

        grpcio calls this for one RPC after another, nearly in the order of their arrival: of those
        that wait, an RPC that has just arrived is first now and then (20 of 3,000 bursts of 20).
        """
        health = self._health_v1.service(details)
        if health is not None:
            return health
        if self._secrets and not self._is_trusted(details):
            return self._refusal
        found = self._calls.get(details.method)
        if found is None:
            return self._others.get(details.method) or self._reflection.service(details)
        make, behaviour, parse = found
        return make(functools.partial(behaviour, arrival()), parse)

    def set_secrets(self, secrets: list[str]) -> None:
        """From now on these secrets are accepted and no others.

        Clients that have sent another learn it from the Health RPC, and connect again. Until then
        their other RPCs must not fail.
        """
        accepted = [secret.encode() for secret in secrets]
        until = time.monotonic() + LEAVES_WITHIN
        former = {**dict.fromkeys(self._secrets, until), **self._withdrawn}
        self._withdrawn = {secret: at for secret, at in former.items() if secret not in accepted}
        self._secrets = accepted

    def _is_trusted(self, details: grpc.HandlerCallDetails) -> bool:
        metadata = dict(details.invocation_metadata or ())
        accepted = self._secrets
        if self._withdrawn and details.method != f"/{SERVICE}/Health":
            now = time.monotonic()
            accepted = accepted + [secret for secret, at in self._withdrawn.items() if now < at]
        given = (metadata.get(name, "") for name in (_SECRET, _AUTHORIZATION))
        return any(_is_one_of(accepted, secret) for secret in given)

    def _metadata(self, rpc: grpc.ServicerContext) -> Mapping[str, str]:
        return {
            key: value
            for key, value in rpc.invocation_metadata()
            if isinstance(value, str)
            and key != _SECRET
            and not (
                key == _AUTHORIZATION and _is_one_of([*self._secrets, *self._withdrawn], value)
            )
        }

    # grpcio answers an RPC whose handler raises an `Exception`, but not another BaseException.

    def _execute(self, order: int, request: _Request, rpc: grpc.ServicerContext) -> bytes:
        request.request_id = request.request_id or self._metadata(rpc).get(_REQUEST_ID, "")
        wire = UnaryWire(request.request_id, self._limit, functools.partial(_full, rpc))
        began = time.monotonic()
        try:
            return self._answer(order, request, rpc, wire)
        except BaseException as error:
            return wire.failure(CallError.internal(error, request.command))
        finally:
            self._log(request, rpc, wire, began)

    def _answer(
        self, order: int, request: _Request, rpc: grpc.ServicerContext, wire: UnaryWire
    ) -> bytes:
        try:
            command = self._worker.registry.find(request.command, stream=False)
            call, deadline = self._call(command, request, rpc, order, wire.waiting)
        except CallError as failure:
            self._worker.runner.count_refused()
            return wire.failure(failure)
        answer = functools.partial(execution.run, self._worker.runner, call, wire)
        if deadline is None:
            return answer()
        return next(self._limited(call, deadline, _once(answer), wire))

    def _execute_stream(
        self, order: int, request: _Request, rpc: grpc.ServicerContext
    ) -> Iterator[bytes]:
        request.request_id = request.request_id or self._metadata(rpc).get(_REQUEST_ID, "")
        wire = StreamWire(request.request_id, self._limit, functools.partial(_full, rpc))
        began = time.monotonic()
        try:
            yield from self._messages(order, request, rpc, wire)
        except GeneratorExit:
            wire.outcome = "cancelled"
            raise
        except BaseException as error:
            yield wire.failure(CallError.internal(error, request.command))
        finally:
            self._log(request, rpc, wire, began)

    def _messages(
        self, order: int, request: _Request, rpc: grpc.ServicerContext, wire: StreamWire
    ) -> Iterator[bytes]:
        try:
            command = self._worker.registry.find(request.command, stream=True)
            call, deadline = self._call(command, request, rpc, order, wire.waiting)
        except CallError as failure:
            self._worker.runner.count_refused()
            return iter((wire.failure(failure),))
        messages = execution.stream(self._worker.runner, call, wire)
        return messages if deadline is None else self._limited(call, deadline, messages, wire)

    def _call_with_events(
        self, order: int, request: pb.CallFrame, rpc: grpc.ServicerContext
    ) -> Iterator[bytes]:
        waiting = Waiting()
        wire = FrameWire(self._limit, waiting.offer)
        began = time.monotonic()
        try:
            yield from self._frames(order, request, rpc, wire, waiting)
        except GeneratorExit:
            wire.outcome = "cancelled"
            raise
        except BaseException as error:
            yield wire.failure(CallError.internal(error, request.command))
        finally:
            self._log(request, rpc, wire, began)

    def _converse(
        self, order: int, requests: Iterator[pb.ConverseUp], rpc: grpc.ServicerContext
    ) -> Iterator[bytes]:
        first = first_of(requests, rpc)
        frame = first.call.call
        frame.request_id = frame.request_id or self._metadata(rpc).get(_REQUEST_ID, "")

        def make(
            command: Command, reports: Reports, conversation: Conversation
        ) -> tuple[Call, Optional[float]]:
            made = self._call(command, frame, rpc, order, reports, asks=conversation)
            call, _ = made
            call.args = functools.partial(two_way.args, call.args, command)
            call.conversation = conversation
            return made

        start = Start(
            runner=self._worker.runner,
            find=functools.partial(self._worker.registry.find, stream=first.call.stream),
            call=make,
            limit=self._limit,
            ends_within=functools.partial(_ends_within, rpc),
            on_full=functools.partial(_full, rpc),
        )
        two_way = TwoWayCall(first, requests, start)
        began = time.monotonic()
        try:
            yield from two_way.serve()
        except GeneratorExit:
            two_way.wire.outcome = "cancelled"
            raise
        except ProtocolError as error:
            two_way.cancel()
            rpc.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TimedOutError:
            two_way.cancel()
            yield two_way.failure(CallError("timeout", "no result within the call's timeout_us"))
        except BaseException as error:
            yield two_way.failure(CallError.internal(error, frame.command))
        finally:
            two_way.leave()
            self._log(frame, rpc, two_way, began)

    def _log(self, request: _Request, rpc: grpc.ServicerContext, wire: _Wire, began: float) -> None:
        if self._logs_calls:
            _, _, peer = unquote(rpc.peer()).partition(":")
            seconds = time.monotonic() - began
            log_call(peer or "unix", request.command, request.request_id, wire.outcome, seconds)

    def _frames(
        self,
        order: int,
        request: pb.CallFrame,
        rpc: grpc.ServicerContext,
        wire: FrameWire,
        waiting: Waiting,
    ) -> Iterator[bytes]:
        try:
            command = self._worker.registry.find(request.command, stream=False)
            call, deadline = self._call(command, request, rpc, order, wire)
        except CallError as failure:
            self._worker.runner.count_refused()
            return iter((wire.failure(failure),))
        answer = functools.partial(execution.run, self._worker.runner, call, wire)
        return self._limited(call, deadline, _once(answer), wire, waiting)

    def _call(
        self,
        command: Command,
        request: _Request,
        rpc: grpc.ServicerContext,
        order: int,
        reports: Reports,
        *,
        asks: Optional[Conversation] = None,
    ) -> tuple[Call, Optional[float]]:
        """Returns the call, and its deadline if gRPC does not enforce it."""
        remaining = _remaining(rpc)
        watched = remaining is not None
        if remaining is None and _timeout(request) > 0:
            remaining = _timeout(request)
        deadline = None if remaining is None else time.monotonic() + remaining
        session_id, client_id, generation = None, 0, 0
        if isinstance(request, pb.SessionRequest) or (
            isinstance(request, pb.CallFrame) and request.session_id
        ):
            session_id, client_id = request.session_id, request.client_id
            generation = request.session_generation
        context = Context(
            request_id=request.request_id,
            session_id=session_id,
            session_generation=generation,
            client_id=client_id,
            sessions=self._worker.sessions,
            worker_id=self._worker.worker_id,
            deadline=deadline,
            metadata=functools.partial(self._metadata, rpc),
            takes_events=request.takes_events,
            reports=reports,
            asks=asks,
        )
        kinds = request.arg_kinds if request.HasField("arg_kinds") else None
        args = functools.partial(decode_fields, request.args, kinds)
        call = Call(
            command,
            args,
            context,
            call_id=request.call_id,
            order=order,
            kinds=kinds is not None,
            size=0 if command.batching is None else request.ByteSize(),
        )
        cancel = functools.partial(self._worker.runner.cancel, call)
        if not rpc.add_callback(cancel):
            cancel()
        return call, None if watched else deadline

    def _limited(
        self,
        call: Call,
        deadline: Optional[float],
        messages: Generator[bytes, None, None],
        wire: _Wire,
        waiting: Optional[Waiting] = None,
    ) -> Iterator[bytes]:
        try:
            yield from relay(messages, deadline, waiting)
        except TimedOutError:
            self._worker.runner.cancel(call)
            yield wire.failure(CallError("timeout", "no result within the request's timeout_ms"))

    def _health(self, request: pb.HealthRequest, rpc: grpc.ServicerContext) -> pb.HealthResponse:
        runner = self._worker.runner
        if request.await_call_id and rpc.add_callback(runner.wake):
            remaining = _remaining(rpc)
            timeout = None if remaining is None else max(0.0, remaining - HEALTH_MARGIN)
            runner.wait_idle(request.await_call_id, timeout, lambda: not rpc.is_active())
        ended = runner.handler_exit(request.await_call_id)
        return pb.HealthResponse(
            healthy=self._health_v1.serving,
            worker_id=self._worker.worker_id,
            uptime_ms=self._worker.uptime_ms(),
            total_requests=runner.handled,
            total_errors=runner.failed,
            version=__version__,
            in_flight=runner.in_flight(),
            running_call_ids=runner.running_call_ids(),
            await_ended=ended,
            await_exit=_EXITS.get(ended, pb.HANDLER_EXIT_UNKNOWN),
            batch_sizes=self._worker.registry.batch_sizes(),
            instance_id=INSTANCE_ID,
            has_converse=self._has_converse,
        )

    def _end_session(
        self, request: pb.EndSessionRequest, _rpc: grpc.ServicerContext
    ) -> pb.EndSessionResponse:
        key = SessionKey(request.session_id, request.client_id)
        ended = self._worker.sessions.end(key, request.session_generation)
        return pb.EndSessionResponse(ended=ended)

    def _get_info(self, request: pb.InfoRequest, _rpc: grpc.ServicerContext) -> pb.InfoResponse:
        commands = self._worker.registry
        helps = {name: command.help for name, command in commands.items()}
        return pb.InfoResponse(
            worker_type="python",
            version=__version__,
            supported_commands=list(commands),
            capabilities=helps if request.include_capabilities else None,
            commands=[
                pb.CommandInfo(**command.describe())
                for command in (commands.values() if request.include_commands else ())
            ],
            stats=pb.WorkerStats(**self._worker.stats()) if request.include_stats else None,
            system_info={**system_info(), "grpcio": grpc.__version__},
        )


def _ends_within(rpc: grpc.ServicerContext, seconds: float) -> bool:
    ended = threading.Event()
    return not rpc.add_callback(ended.set) or ended.wait(seconds)


def _once(answer: Callable[[], bytes]) -> Generator[bytes, None, None]:
    yield answer()


def _timeout(request: _Request) -> float:
    """Returns the time that the message gives, in seconds; 0 for none."""
    if isinstance(request, pb.CallFrame):
        return request.timeout_us / 1_000_000
    return request.timeout_ms / 1000


def _remaining(rpc: grpc.ServicerContext) -> Optional[float]:
    remaining = rpc.time_remaining()
    return None if remaining > _ENDLESS else remaining


def _refuse(_requests: Iterator[bytes], rpc: grpc.ServicerContext) -> NoReturn:
    rpc.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        'expected the metadata "authorization: Bearer TOKEN" with a token of the server\'s '
        f"--token-file, or {_SECRET!r} with the secret that the worker was started with",
    )


def _full(rpc: grpc.ServicerContext, why: str) -> None:
    rpc.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
    rpc.set_details(why)
