"""Tests an adapter: calls its commands in this process, as a worker does.

    from snakepit_bridge import testing

    def test_greets():
        with testing.Worker(Greeter) as worker:
            assert worker.call("greet", {"name": "Ada"}) == {"result": "Hello Ada"}

Arguments and results are encoded, decoded and checked as on their way from Elixir and back: a call
returns what Elixir would receive. An exception that a command raises is raised here unchanged; any
other failure is a `CallError`. `error_of` returns how Elixir sees either. No process is started,
and no connection is made.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Optional, TypedDict, Union

from snakepit_bridge._arguments import init_args
from snakepit_bridge._commands.adapter import Adapter
from snakepit_bridge._commands.call import Call as _Call
from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._commands.sessions import Session, SessionKey, Sessions
from snakepit_bridge._errors import call_error
from snakepit_bridge._errors.exits import forget_forks
from snakepit_bridge._errors.guards import ReportTo, invalid_result
from snakepit_bridge._errors.two_way import InputError, ToolError
from snakepit_bridge._telemetry.reports import TAKES_TELEMETRY
from snakepit_bridge._threads import execution
from snakepit_bridge._threads.hook_runner import HookRunner
from snakepit_bridge._threads.runner import Runner
from snakepit_bridge._two_way.conversation import Conversation, Decode
from snakepit_bridge._types.names import qualified_name
from snakepit_bridge._values.fields import (
    InvalidValueError,
    decode,
    decode_extended,
    decode_fields,
    encode,
    encode_extended,
    encode_fields,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = [
    "Call",
    "CallError",
    "Event",
    "Options",
    "Progress",
    "Worker",
    "acall",
    "astream",
    "call",
    "error_of",
    "stream",
]

_AnyAdapter = Union[Adapter, type[Adapter]]
_END = object()
# The attribute of an exception that holds how Elixir sees it.
_SEEN = "__snakepit_failure__"


class Options(TypedDict, total=False):
    """The options of a call.

    `session_id` is the one of `execute_in_session`. `timeout`, in seconds, gives the call a
    deadline, at which it is cancelled. `request_id` and `metadata` appear in the context.

    `tools` are functions that the command may ask by `context.call`. Each gets the arguments as
    keywords, in a thread of its own. A `ToolError` that it raises is the one that the command gets;
    for another exception that has the code "exception". `inputs` are the arguments that are input
    streams; each iterable is taken only as the command reads it.
    """

    session_id: Optional[str]
    timeout: Optional[float]
    request_id: str
    metadata: Mapping[str, str]
    tools: Mapping[str, Callable[..., Any]]
    inputs: Mapping[str, Iterable[Any]]


class Event(NamedTuple):
    """What a command has reported by `context.telemetry`, as Elixir receives it."""

    name: str
    measurements: dict[str, Any]
    metadata: dict[str, Any]
    command: str
    request_id: str
    session_id: Optional[str]


class Progress(NamedTuple):
    """What a command has reported by `context.progress`."""

    fraction: float
    message: str
    command: str
    request_id: str


class CallError(Exception):
    """The error of a failed call, as Elixir sees it: `Snakepit.Error`.

    `reason` is the name of the atom, for example "invalid_args"; `details` depends on the reason,
    as `Snakepit.Error` documents.
    """

    def __init__(self, reason: str, message: str, details: Optional[dict[str, Any]] = None) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.details: dict[str, Any] = {} if details is None else details

    def __str__(self) -> str:
        if self.reason == "command_error":
            return self.message
        return f"{self.reason}: {self.message}"


def error_of(error: BaseException) -> CallError:
    """Returns how Elixir sees an exception that a call in this module has raised."""
    # Do not run the exception's own code, which may raise.
    given: Any = error
    if issubclass(type(error), CallError):
        refused: CallError = given
        return refused
    try:
        # The state of the exception before it propagated through this module and its test.
        failure = BaseException.__getattribute__(error, _SEEN)
    except AttributeError:
        failure = call_error.CallError.of(error)
    return _seen(failure)


def _made(cls: type[Adapter], init: dict[str, Any]) -> Adapter:
    """Makes an instance from the values that a pool's `adapter_args: [init: ...]` may have."""
    message = encode_extended({"init": init}, "init") if init else None
    try:
        keywords = init_args.keywords(cls, message)
    except init_args.InitError as error:
        raise TypeError(f"{cls.__name__} could not be created: {error}") from None
    return cls(**keywords)


def _seen(failure: call_error.CallError) -> CallError:
    details: dict[str, Any] = {}
    data = decode_extended(failure.data) if failure.data else None
    if failure.type:
        details = failure.detail()
        del details["reason"], details["code"], details["data"]
    elif data is not None:
        details = {"errors": data}
    if failure.code:
        details.update(code=failure.code, data=data)
    return CallError(failure.reason, str(failure), details)


class Call:
    """A call that `Worker.start` has started, in a thread of its own."""

    def __init__(self, worker: Worker, call: _Call) -> None:
        self._worker = worker
        self._call = call
        self._future: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        self._future.set_running_or_notify_cancel()
        name = f"snakepit-testing-{call.command.name}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether the command has ended."""
        return self._future.done()

    def result(self, wait: Optional[float] = None) -> dict[str, Any]:
        """Waits until the command has ended; returns or raises what the call does.

        If the command still runs after `wait` seconds, raises a `TimeoutError`; the command
        continues.
        """
        try:
            return self._future.result(wait)
        except concurrent.futures.TimeoutError:
            if self._future.done():
                raise
            raise TimeoutError(f"the command still runs after {wait} s") from None

    def cancel(self) -> None:
        """Cancels the call, as if its caller in Elixir had died."""
        self._worker._cancel(self._call)  # noqa: SLF001 (of one module)

    def expire(self) -> None:
        """Makes the deadline pass now."""
        self._worker._expire(self._call)  # noqa: SLF001

    def _run(self) -> None:
        with ReportTo(self._future.set_exception):
            self._future.set_result(self._worker._result(self._call))  # noqa: SLF001


class _Context(Context):
    """Keeps in its worker what the command reports, until the call has ended."""

    def __init__(self, worker: Worker, command: str, **of_call: Any) -> None:
        super().__init__(takes_events=TAKES_TELEMETRY, reports=_Events(self), **of_call)
        self.worker = worker
        self.command = command
        self.left = False
        self.client: Optional[_Client] = None

    def progress(self, fraction: float, message: str = "") -> None:
        super().progress(fraction, message)
        if self._progress is not None and not self.left:
            progress = Progress(*self._progress, self.command, self.request_id)
            self.worker.progress.append(progress)

    def _leave(self) -> None:
        super()._leave()
        self.left = True
        if self.client is not None:
            self.client.leave()


class _Events:
    """Keeps the events of a call in its worker."""

    def __init__(self, context: _Context) -> None:
        self._context = context

    def progress(self, fraction: float, message: str) -> None:
        """Is not called: a client that does not take progress gets none."""

    def telemetry(self, name: str, measurements: bytes, metadata: bytes) -> bool:
        context = self._context
        if context.left:
            return False
        event = Event(
            name,
            decode_extended(measurements),
            decode_extended(metadata),
            context.command,
            context.request_id,
            context.session_id,
        )
        context.worker.events.append(event)
        return True


class _Client:
    """The caller's side of a two-way call."""

    def __init__(
        self, tools: Mapping[str, Callable[..., Any]], inputs: Mapping[str, Iterable[Any]]
    ) -> None:
        self.conversation = Conversation(self, tools)
        self._tools = tools
        self._inputs = dict(enumerate(inputs.items(), start=1))
        self._feeders: dict[int, _Feeder] = {}

    def args(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> dict[str, Any]:
        args = decode_fields(fields, kinds)
        for number, (name, _) in self._inputs.items():
            args[name] = self.conversation.input(number, name)
        return args

    def leave(self) -> None:
        """The call has ended: nothing more is taken from the iterables."""
        for feeder in self._feeders.values():
            feeder.stop()

    def ask(self, ask_id: int, tool: str, args: dict[str, Any], _timeout: Optional[float]) -> None:
        with invalid_result:
            fields, kinds = encode_fields(args, "args", kinds=True)
        answer = functools.partial(self._answer, ask_id, tool, fields, kinds)
        threading.Thread(target=answer, name=f"snakepit-tool-{tool}", daemon=True).start()

    def _answer(
        self, ask_id: int, tool: str, fields: dict[str, bytes], kinds: Optional[bytes]
    ) -> None:
        try:
            value = self._tools[tool](**decode_fields(fields, kinds))
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
            kind, data = encode(value, "the answer", kinds=True)
            result: Decode = functools.partial(decode, data, "the answer", kind)
        except ToolError as error:
            result = functools.partial(_raise, error)
        except BaseException as error:
            failed = ToolError("exception", str(error), tool=tool)
            failed.__cause__ = error
            result = functools.partial(_raise, failed)
        self.conversation.answer(ask_id, result)

    def withdraw(self, ask_id: int) -> None:
        """The tool ends by itself; its answer is ignored."""

    def demand(self, input_id: int, count: int, size: int) -> None:
        feeder = self._feeders.get(input_id)
        if feeder is None:
            _, items = self._inputs[input_id]
            feeder = self._feeders[input_id] = _Feeder(self.conversation, input_id, items)
            feeder.start()
        feeder.want(count, size)

    def stop(self, input_id: int) -> None:
        feeder = self._feeders.get(input_id)
        if feeder is not None:
            feeder.stop()


def _raise(error: Exception) -> NoReturn:
    raise error


class _Feeder(threading.Thread):
    """Takes the items of an iterable as the command reads them."""

    def __init__(self, conversation: Conversation, input_id: int, items: Iterable[Any]) -> None:
        super().__init__(name=f"snakepit-input-{input_id}", daemon=True)
        self._conversation = conversation
        self._id = input_id
        self._items = items
        self._changed = threading.Condition()
        self._count = self._size = 0
        self._stopped = False

    def want(self, count: int, size: int) -> None:
        with self._changed:
            self._count += count
            self._size += size
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        error = None
        try:
            self._feed(iter(self._items))
        except BaseException as raised:
            error = InputError(str(raised), type=qualified_name(type(raised)))
            error.__cause__ = raised
        self._conversation.end_input(self._id, error)

    def _feed(self, items: Iterator[Any]) -> None:
        try:
            while self._is_wanted():
                item = next(items, _END)
                if item is _END:
                    return
                kind, data = encode(item, "item", kinds=True)
                with self._changed:
                    self._count -= 1
                    self._size -= len(data)
                decoded = functools.partial(decode, data, "item", kind)
                self._conversation.add(self._id, [(len(data), decoded)])
        finally:
            if inspect.isgenerator(items):
                items.close()

    def _is_wanted(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or (self._count > 0 and self._size > 0))
            return not self._stopped


class Worker:
    """A worker in this process, with one instance of an adapter.

    Given a class, it creates the instance when the `with` block begins, with `init` as the keyword
    arguments of its `__init__`, and runs its `start`; at the end of the block it runs its `close`.
    Given an instance, it runs neither. `session_ended` runs for each session that ends, at the
    latest at the end of the block. Exceptions of `close` and `session_ended` are logged, as by a
    worker.

    At most `max_concurrency` calls run at once. `session_ttl` is in seconds. Synchronous commands
    run in the calling thread, `async` commands on an event loop in a thread of its own, as in a
    worker, and commands that take batches in threads of their own. Calls of such a command that are
    started while others run gather, as in a worker; `batch` puts calls into one batch.

    `events` has what commands have reported by `context.telemetry`, and `progress` what they have
    reported by `context.progress`, also the reports that a worker leaves out because they come too
    soon after the last one.
    """

    def __init__(
        self,
        adapter: _AnyAdapter,
        *,
        init: Optional[Mapping[str, Any]] = None,
        worker_id: str = "testing",
        max_concurrency: int = 1,
        max_sessions: int = 10_000,
        session_ttl: float = 3600.0,
    ) -> None:
        self._given = adapter
        self._init = dict(init or {})
        self._worker_id = worker_id
        self._runner = Runner(max_concurrency)
        self._sessions = Sessions(max_sessions, session_ttl, self._session_ended)
        self._registry: Optional[Registry] = None
        self._hooks: HookRunner
        self._expired: set[_Call] = set()
        self.events: list[Event] = []
        self.progress: list[Progress] = []

    def __enter__(self) -> Self:
        # The test may run in a forked child.
        forget_forks()
        given = self._given
        registry = Registry(given if isinstance(given, Adapter) else _made(given, self._init))
        hooks = self._hooks = HookRunner(registry.hooks)
        if registry.adapter is not given:
            hooks.start()
        self._registry = registry
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        registry = self._commands()
        self._runner.close()
        self._sessions.end_all()
        self._registry = None
        if registry.adapter is not self._given:
            self._hooks.close()

    @property
    def adapter(self) -> Any:
        """The adapter's instance."""
        return self._commands().adapter

    @property
    def commands(self) -> list[dict[str, Any]]:
        """Each command's name, signature, parameters and docstring, as in `Snakepit.commands/1`."""
        return [command.describe() for command in self._commands().values()]

    def call(
        self,
        command: str,
        args: Optional[Mapping[str, Any]] = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """Calls a command and returns its result as Elixir receives it: `{"result": 5}`, or a dict.

        After `timeout` seconds the call is cancelled, and once the command has ended, a `CallError`
        with the reason "timeout" is raised.
        """
        made = self._make(command, args, options, stream=False)
        return self._result(made)

    def start(
        self,
        command: str,
        args: Optional[Mapping[str, Any]] = None,
        **options: Unpack[Options],
    ) -> Call:
        """Like `call`, in a thread of its own: for tests that cancel."""
        made = self._make(command, args, options, stream=False)
        return Call(self, made)

    def batch(
        self, command: str, calls: Iterable[Mapping[str, Any]], **options: Unpack[Options]
    ) -> list[Union[dict[str, Any], BaseException]]:
        """Makes a call with each of these arguments, of a command that takes batches.

        All of them arrive at once: they are one batch, or several full ones and the rest. Returns
        for each what `call` returns or raises. `options` apply to each call.
        """
        made = [self._make(command, args, options, stream=False) for args in calls]
        if made and made[0].command.batching is None:
            raise TypeError(f"{command!r} takes no batches: it is not a @command(batch=...)")
        wires = [_Wire() for _ in made]
        with contextlib.ExitStack() as watched:
            for each in made:
                watched.enter_context(self._watched(each))
            execution.run_together(self._runner, list(zip(made, wires)))
        return list(map(self._outcome, wires, made))

    def _outcome(self, wire: _Wire, call: _Call) -> Union[dict[str, Any], BaseException]:
        try:
            return self._taken(wire, call)
        except BaseException as error:
            return error

    async def acall(
        self,
        command: str,
        args: Optional[Mapping[str, Any]] = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """Like `call`, for `async` tests. Cancelling the task cancels the call."""
        started = self.start(
            command,
            args,
            **options,
        )
        # An asyncio future cannot hold a StopIteration: await only its end.
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        ended.set_running_or_notify_cancel()
        started._future.add_done_callback(lambda _: ended.set_result(None))  # noqa: SLF001
        try:
            await asyncio.wrap_future(ended)
        except asyncio.CancelledError:
            started.cancel()
            raise
        return started.result()

    def stream(
        self,
        command: str,
        args: Optional[Mapping[str, Any]] = None,
        **options: Unpack[Options],
    ) -> Generator[dict[str, Any], None, None]:
        """Yields the chunks of a command as Elixir receives them: dicts with the key "is_final".

        Closing the generator, as `break` and `del` do, closes the command, as when Elixir's
        consumer halts.
        """
        made = self._make(command, args, options, stream=True)
        return self._chunks(made)

    async def astream(
        self,
        command: str,
        args: Optional[Mapping[str, Any]] = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Like `stream`, for `async` tests."""
        chunks = self.stream(
            command,
            args,
            **options,
        )
        loop = asyncio.get_running_loop()
        # Run all steps in one thread, as a generator may expect.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            try:
                while True:
                    chunk = await loop.run_in_executor(thread, next, chunks, _END)
                    if not isinstance(chunk, dict):
                        return
                    yield chunk
            finally:
                thread.submit(chunks.close).result()

    def session(self, session_id: str) -> Session:
        """Returns the dict that the calls of a session share: `context.session`."""
        return Context(session_id=session_id, sessions=self._sessions).session

    def end_session(self, session_id: str) -> bool:
        """Ends a session like `Snakepit.end_session/2`; returns whether there was one."""
        return self._sessions.end(SessionKey(session_id))

    def _session_ended(self, session_id: str, session: Session) -> None:
        going_on = self._hooks.session_ended(session_id, session)
        if going_on is not None:
            going_on.result()

    def _commands(self) -> Registry:
        if self._registry is None:
            raise RuntimeError("the worker runs only in its `with` block")
        return self._registry

    def _make(
        self,
        name: str,
        args: Optional[Mapping[str, Any]],
        options: Options,
        *,
        stream: bool,
    ) -> _Call:
        for option in options.keys() - Options.__annotations__.keys():
            raise TypeError(
                f"a call has no option {option!r}; pass the command's arguments in a dict: "
                f"({name!r}, {{{option!r}: ...}})"
            )
        try:
            command = self._commands().find(name, stream=stream)
            fields, kinds = encode_fields(dict(args or {}), "args", kinds=True)
            timeout, request_id = options.get("timeout"), options.get("request_id", "")
            metadata = {"x-request-id": request_id, **(options.get("metadata") or {})}
            client = _Client(options.get("tools") or {}, options.get("inputs") or {})
            context = _Context(
                self,
                name,
                request_id=request_id,
                session_id=options.get("session_id"),
                sessions=self._sessions,
                worker_id=self._worker_id,
                deadline=None if timeout is None else time.monotonic() + timeout,
                metadata=lambda: metadata,
                asks=client.conversation,
            )
        except call_error.CallError as failure:
            raise _seen(failure) from None
        except InvalidValueError as error:
            raise CallError("invalid_args", str(error)) from None
        context.client = client
        return _Call(
            command,
            functools.partial(client.args, fields, kinds),
            context,
            kinds=True,
            size=sum(map(len, fields.values())),
            conversation=client.conversation,
        )

    def _result(self, call: _Call) -> dict[str, Any]:
        wire = _Wire()
        with self._watched(call):
            execution.run(self._runner, call, wire)
        return self._taken(wire, call)

    def _chunks(self, call: _Call) -> Generator[dict[str, Any], None, None]:
        wire = _Wire()
        with self._watched(call):
            messages = execution.stream(self._runner, call, wire)
            try:
                for _message in messages:
                    yield self._taken(wire, call)
            finally:
                messages.close()

    @contextlib.contextmanager
    def _watched(self, call: _Call) -> Generator[None, None, None]:
        deadline = call.context.deadline
        if deadline is None:
            yield
            return
        left = max(0.0, deadline - time.monotonic())
        timer = threading.Timer(left, self._expire, (call,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self, call: _Call) -> None:
        if not call.ended:
            call.context.deadline = time.monotonic()
            self._expired.add(call)
            self._runner.cancel(call)

    def _cancel(self, call: _Call) -> None:
        self._runner.cancel(call)

    def _taken(self, wire: _Wire, call: _Call) -> dict[str, Any]:
        # The caller ignores what the command returns after that.
        if call in self._expired:
            self._expired.discard(call)
            raise CallError("timeout", "the deadline passed while the call was running")
        if call.context.cancelled:
            raise CallError("cancelled", "the call was cancelled")
        failure = wire.failed
        if failure is None:
            return wire.value
        raised = failure.__cause__
        if failure.type and raised is not None:
            BaseException.__setattr__(raised, _SEEN, failure)
            raise raised
        raise _seen(failure)


class _Wire:
    """Keeps the last message, as Elixir decodes it."""

    def __init__(self) -> None:
        self.batch = (0, 0)
        self.value: dict[str, Any] = {}
        self.failed: Optional[call_error.CallError] = None

    def result(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> bytes:
        self.value = decode_fields(fields, kinds)
        return b""

    def chunk(
        self,
        fields: Mapping[str, bytes],
        kinds: Optional[bytes],
        index: int,  # noqa: ARG002 (of the protocol)
        *,
        final: bool,
    ) -> bytes:
        self.value = {**decode_fields(fields, kinds), "is_final": final}
        return b""

    def events(self) -> tuple[bytes, ...]:
        return ()

    def failure(self, failure: call_error.CallError, index: int = 0) -> bytes:  # noqa: ARG002
        self.failed = failure
        return b""


def call(
    adapter: _AnyAdapter,
    command: str,
    args: Optional[Mapping[str, Any]] = None,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Makes one call in a `Worker` of its own; `options` are those of `Worker.call`."""
    with Worker(adapter) as worker:
        return worker.call(command, args, **options)


def stream(
    adapter: _AnyAdapter,
    command: str,
    args: Optional[Mapping[str, Any]] = None,
    **options: Unpack[Options],
) -> Generator[dict[str, Any], None, None]:
    """Yields the chunks of one call in a `Worker` of its own, with the options of `stream`."""
    with Worker(adapter) as worker:
        yield from worker.stream(command, args, **options)


async def acall(
    adapter: _AnyAdapter,
    command: str,
    args: Optional[Mapping[str, Any]] = None,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Like `call`, for `async` tests."""
    with Worker(adapter) as worker:
        return await worker.acall(command, args, **options)


async def astream(
    adapter: _AnyAdapter,
    command: str,
    args: Optional[Mapping[str, Any]] = None,
    **options: Unpack[Options],
) -> AsyncGenerator[dict[str, Any], None]:
    """Like `stream`, for `async` tests."""
    with Worker(adapter) as worker:
        async for chunk in worker.astream(command, args, **options):
            yield chunk
