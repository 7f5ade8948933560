from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator

import pytest
from client import PATIENCE

from snakepit_bridge import Adapter, Context, command
from snakepit_bridge._commands.call import Call
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._threads import execution, loop_thread
from snakepit_bridge._threads.runner import Runner


class Kept(Adapter):
    """Commands that end in different ways, and keep nothing."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.contexts: list[weakref.ref[Context]] = []

    def _begin(self, context: Context) -> None:
        self.contexts.append(weakref.ref(context))
        self.begun.set()

    @command
    def returns(self, context: Context) -> int:
        self._begin(context)
        return 1

    @command
    async def areturns(self, context: Context) -> int:
        self._begin(context)
        return 1

    @command
    def raises(self, context: Context) -> None:
        self._begin(context)
        raise KeyError(1)

    @command
    async def araises(self, context: Context) -> None:
        self._begin(context)
        raise KeyError(1)

    @command
    def waits(self, context: Context) -> None:
        self._begin(context)
        context.wait_cancelled()

    @command
    async def awaits(self, context: Context) -> None:
        self._begin(context)
        await asyncio.Event().wait()

    @command
    def yields(self, context: Context) -> Generator[int, None, None]:
        self._begin(context)
        yield 1

    @command
    def yields_and_raises(self, context: Context) -> Generator[int, None, None]:
        self._begin(context)
        yield 1
        raise KeyError(1)

    @command
    async def ayields(self, context: Context) -> AsyncGenerator[int, None]:
        self._begin(context)
        yield 1

    @command
    async def ayields_and_raises(self, context: Context) -> AsyncGenerator[int, None]:
        self._begin(context)
        yield 1
        raise KeyError(1)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Wire:
    """A wire to nowhere."""

    batch = (0, 0)

    def result(self, *_fields: object) -> bytes:
        return b"result"

    def failure(self, *_failure: object) -> bytes:
        return b"failure"

    def chunk(self, *_fields: object, **_options: object) -> bytes:
        return b"chunk"

    def events(self) -> Iterator[bytes]:
        return iter(())


def _cancel(call: Call, adapter: Kept, runner: Runner) -> None:
    adapter.begun.wait()
    runner.cancel(call)


def _run(name: str, adapter: Kept, runner: Runner) -> None:
    call = Call(Registry(adapter).find(name, stream="yields" in name), dict, Context())
    if "yields" in name:
        assert b"chunk" in list(execution.stream(runner, call, Wire()))
        return
    if "waits" in name:
        cancelling = threading.Thread(target=_cancel, args=(call, adapter, runner))
        cancelling.start()
    assert execution.run(runner, call, Wire()) in (b"result", b"failure")
    if "waits" in name:
        cancelling.join()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", [name for name in vars(Kept) if not name.startswith("_")])
def test_nothing_keeps_a_call_that_has_ended(name: str) -> None:
    # grpcio refuses RPCs while too many of those that have ended are kept.
    adapter, runner = Kept(), Runner(1)
    _run(name, adapter, runner)
    # The event loop has forgotten it, too.
    for _ in range(2):
        _run("areturns", adapter, runner)
    assert adapter.contexts[0]() is None


class Cleaning(Adapter):
    """Commands whose cleanup awaits something."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cleaning = threading.Event()
        self.until = asyncio.Event()
        self.cleaned = False

    async def _clean(self) -> None:
        self.cleaning.set()
        await self.until.wait()
        self.cleaned = True

    @command
    async def awaits(self) -> None:
        try:
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            await self._clean()

    @command
    async def ayields(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            await self._clean()


@pytest.mark.parametrize("name", ["awaits", "ayields"])
def test_the_cleanup_of_a_cancelled_command_is_not_cancelled(name: str) -> None:
    adapter, runner = Cleaning(), Runner(1)
    streams = name == "ayields"
    call = Call(Registry(adapter).find(name, stream=streams), dict, Context())

    def serve() -> None:
        if not streams:
            execution.run(runner, call, Wire())
            return
        messages = execution.stream(runner, call, Wire())
        assert next(messages) == b"chunk"
        assert adapter.cleaning.wait(PATIENCE)
        # As grpcio does when the RPC has ended: it cancels the task as well.
        messages.close()

    serving = threading.Thread(target=serve)
    serving.start()
    assert adapter.begun.wait(PATIENCE)
    runner.cancel(call)
    assert adapter.cleaning.wait(PATIENCE)
    # At the end of an RPC whose deadline has passed.
    runner.cancel(call)
    loop_thread.shared().loop.call_soon_threadsafe(adapter.until.set)
    serving.join(PATIENCE)
    assert not serving.is_alive()
    assert adapter.cleaned


def test_the_first_concurrent_calls_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.AbstractEventLoop] = []
    new_event_loop = asyncio.new_event_loop
    both_in = threading.Barrier(2)

    def make() -> asyncio.AbstractEventLoop:
        with contextlib.suppress(threading.BrokenBarrierError):
            both_in.wait(0.5)
        made.append(new_event_loop())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make)
    loop_thread._started.cache_clear()
    threads = [threading.Thread(target=loop_thread.shared) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop_thread.end()
    loop_thread._started.cache_clear()
    assert len(made) == 1
