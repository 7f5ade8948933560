from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import pytest
from client import PATIENCE

from snakepit_bridge import (
    Adapter,
    CommandError,
    Context,
    Input,
    InputError,
    Session,
    ToolError,
    command,
    testing,
)


@dataclass
class Point:
    x: int
    y: int = 0


class Kept(Adapter):
    closed = 0

    def __init__(self, greeting: str = "Hello") -> None:
        self.greeting = greeting
        self.entered = threading.Event()
        self.ended: list[str] = []
        self.threads: list[threading.Thread] = []

    def close(self) -> None:
        Kept.closed += 1

    @command
    def greet(self, name: str, context: Context) -> str:
        self.threads.append(threading.current_thread())
        return f"{self.greeting} {name} of {context.worker_id}"

    @command
    def move(self, point: Point, when: Optional[dt.date] = None) -> dict[str, Any]:
        result: dict[Any, Any] = {"point": point, "when": when, 3: {1}, "raw": b"\xff"}
        return result

    @command
    def fail(self) -> None:
        raise ValueError("no good")

    @command
    def refuse(self) -> None:
        raise CommandError("out_of_stock", "only 3 are left", data={"left": 3})

    @command
    def unsendable(self) -> object:
        return object()

    @command
    def remember(self, value: int, context: Context) -> list[int]:
        values: list[int] = context.session.setdefault("values", [])
        values.append(value)
        return values

    @command
    def told(self, context: Context) -> dict[str, Any]:
        return {"id": context.request_id, "metadata": dict(context.metadata)}

    @command
    def hold(self, context: Context) -> bool:
        self.entered.set()
        cancelled = context.wait_cancelled(PATIENCE)
        self.ended.append(f"cancelled {cancelled}, {context.remaining()} s left")
        return cancelled

    @command
    async def wait(self) -> None:
        self.entered.set()
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            self.ended.append("wait")
            raise

    @command
    async def double(self, number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    @command
    def count(self, to: int) -> Generator[dict[str, int], None, dict[str, int]]:
        try:
            for number in range(1, to):
                yield {"number": number}
            return {"number": to}
        finally:
            self.ended.append("count")

    @command
    async def ticks(self, count: int) -> AsyncGenerator[dict[str, int], None]:
        for number in range(count):
            await asyncio.sleep(0)
            yield {"tick": number}

    @command
    def train(self, epochs: int, context: Context) -> int:
        for epoch in range(1, epochs + 1):
            context.progress(epoch / epochs, f"epoch {epoch}")
        context.telemetry(
            "trained", {"epochs": epochs, "loss": 0.5}, {"when": dt.date(2026, 1, 31)}
        )
        return epochs

    @command
    def report_badly(self, context: Context) -> None:
        context.telemetry("bad", {"loss": float("nan")})

    @command
    def report_late(self, context: Context) -> None:
        self.late = context

    @command(batch=8)
    async def reporting_batch(
        self, calls: list[dict[str, int]], context: list[Context]
    ) -> list[int]:
        for call, each in zip(calls, context):
            each.telemetry("batched", {"n": call["n"]})
            each.progress(0.5)
        return [call["n"] for call in calls]

    @command
    def reporting_stream(self, context: Context) -> Generator[int, None, None]:
        context.progress(0.5, "half")
        yield 1
        context.telemetry("end", {})

    @command
    def broken_stream(self) -> Generator[int, None, None]:
        yield 1
        raise ValueError("no more")


@pytest.fixture
def worker() -> Generator[testing.Worker, None, None]:
    with testing.Worker(Kept) as worker:
        yield worker


def test_a_call_returns_what_elixir_receives(worker: testing.Worker) -> None:
    assert worker.call("greet", {"name": "Ada"}) == {"result": "Hello Ada of testing"}
    assert worker.call("double", {"number": 2}) == {"result": 4}
    assert worker.call("move", {"point": {"x": 1}, "when": dt.date(2026, 1, 31)}) == {
        "point": {"x": 1, "y": 0},
        "when": "2026-01-31",
        "3": [1],
        "raw": b"\xff",
    }


def test_a_synchronous_command_runs_in_the_calling_thread(worker: testing.Worker) -> None:
    worker.call("greet", {"name": "Ada"})
    assert worker.adapter.threads == [threading.current_thread()]


def test_the_adapter_is_created_with_init_and_closed() -> None:
    closed = Kept.closed
    with testing.Worker(Kept, init={"greeting": "Hi"}, worker_id="w") as worker:
        assert worker.call("greet", {"name": "Bo"}) == {"result": "Hi Bo of w"}
        assert Kept.closed == closed
    assert Kept.closed == closed + 1
    with pytest.raises(RuntimeError, match="only in its `with` block"):
        worker.call("greet", {"name": "Bo"})
    with testing.Worker(Kept()) as worker:
        worker.call("greet", {"name": "Bo"})
    assert Kept.closed == closed + 1


def test_init_is_checked_and_built_as_by_a_worker() -> None:
    class Made(Kept):
        def __init__(self, start: Point, greeting: str = "Hi") -> None:
            super().__init__(greeting)
            self.start_point = start

    with testing.Worker(Made, init={"start": {"x": 1}}) as worker:
        assert worker.adapter.start_point == Point(1)
    for init, message in (({}, "start"), ({"start": {"x": 1}, "greting": "x"}, "greting")):
        with pytest.raises(TypeError, match=message), testing.Worker(Made, init=init):
            pass


class Hooked(Adapter):
    told: ClassVar[list[str]] = []

    async def start(self) -> None:
        await asyncio.sleep(0)
        self.told.append("start")

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.told.append("close")

    def session_ended(self, session_id: str, session: Session) -> None:
        self.told.append(f"{session_id} ended with {dict(session)}")
        if session_id == "broken":
            raise ValueError("not saved")

    @command
    async def keep(self, value: int, context: Context) -> None:
        context.session["value"] = value


def test_hooks_run_as_in_a_worker(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        Hooked.told.clear()
        with testing.Worker(Hooked) as worker:
            assert Hooked.told == ["start"]
            for session in ("a", "broken", "b"):
                worker.call("keep", {"value": 1}, session_id=session)
            worker.end_session("b")
            worker.end_session("broken")
            assert Hooked.told[1:] == [
                f"{name} ended with {{'value': 1}}" for name in ("b", "broken")
            ]
        assert Hooked.told[3:] == ["a ended with {'value': 1}", "close"]
    assert "session_ended('broken') failed" in caplog.text

    Hooked.told.clear()
    with testing.Worker(Hooked()) as worker:
        worker.call("keep", {"value": 2}, session_id="a")
    assert Hooked.told == ["a ended with {'value': 2}"]


def test_a_start_that_fails_is_raised() -> None:
    class Failing(Hooked):
        async def start(self) -> None:
            raise OSError("no model")

    with pytest.raises(OSError, match="no model"), testing.Worker(Failing):
        pass


def test_an_exception_is_raised_and_error_of_returns_how_elixir_sees_it(
    worker: testing.Worker,
) -> None:
    with pytest.raises(ValueError, match=r"^no good$") as caught:
        worker.call("fail")
    error = testing.error_of(caught.value)
    assert (error.reason, error.message) == ("python_error", "ValueError: no good")
    assert error.details["type"] == "ValueError"
    assert [frame["function"] for frame in error.details["frames"]] == ["fail"]
    assert "testing.py" not in error.details["traceback"].replace("test_testing.py", "")

    with pytest.raises(CommandError) as refused:
        worker.call("refuse")
    assert str(refused.value) == "out_of_stock: only 3 are left"
    error = testing.error_of(refused.value)
    assert (error.reason, str(error)) == ("command_error", "out_of_stock: only 3 are left")
    assert error.details["code"] == "out_of_stock"
    assert error.details["data"] == {"left": 3}


@pytest.mark.parametrize(
    ("name", "args", "reason", "message"),
    [
        ("gret", {}, "unknown_command", "did you mean 'greet'?"),
        ("greet", {}, "invalid_args", "missing name: the command is greet(name: str)"),
        ("greet", {"name": 1}, "invalid_args", "name (expected str, got int 1)"),
        ("greet", {"name": [object()]}, "invalid_args", "args.name[0] is of type object"),
        ("move", {"point": {"x": "1"}}, "invalid_args", "point.x: expected int, got str '1'"),
        ("count", {"to": 1}, "invalid_args", "call it with execute_stream"),
        ("unsendable", {}, "invalid_result", "result is of type object, which cannot be sent"),
        ("remember", {"value": 1}, "python_error", "this call belongs to no session"),
    ],
)
def test_other_failures_are_what_elixir_receives(
    worker: testing.Worker, name: str, args: dict[str, Any], reason: str, message: str
) -> None:
    with pytest.raises((testing.CallError, RuntimeError)) as caught:
        worker.call(name, args)
    error = testing.error_of(caught.value)
    assert error.reason == reason
    assert message in error.message


def test_faults_of_arguments_are_in_the_details(worker: testing.Worker) -> None:
    with pytest.raises(testing.CallError) as caught:
        worker.call("move", {"point": {"x": "1"}})
    assert caught.value.details == {
        "errors": [{"path": ["point", "x"], "message": "expected int, got str '1'"}]
    }


def test_calls_of_a_session_share_its_state(worker: testing.Worker) -> None:
    worker.call("remember", {"value": 1}, session_id="a")
    assert worker.call("remember", {"value": 2}, session_id="a") == {"result": [1, 2]}
    assert worker.call("remember", {"value": 3}, session_id="b") == {"result": [3]}
    assert worker.session("a")["values"] == [1, 2]
    assert worker.end_session("a")
    assert not worker.end_session("a")
    assert worker.call("remember", {"value": 4}, session_id="a") == {"result": [4]}


def test_a_call_has_its_request_id_and_metadata(worker: testing.Worker) -> None:
    assert worker.call("told", request_id="r1", metadata={"tenant": "t"}) == {
        "id": "r1",
        "metadata": {"x-request-id": "r1", "tenant": "t"},
    }
    with pytest.raises(TypeError, match=r"no option 'name'.*\('greet', \{'name': \.\.\.\}\)"):
        worker.call("greet", name="Ada")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["hold", "wait"])
def test_a_test_can_cancel_a_call(worker: testing.Worker, name: str) -> None:
    started = worker.start(name)
    assert worker.adapter.entered.wait(PATIENCE)
    assert not started.done
    with pytest.raises(TimeoutError, match="the command still runs"):
        started.result(0)
    started.cancel()
    with pytest.raises(testing.CallError) as caught:
        started.result(PATIENCE)
    assert caught.value.reason == "cancelled"
    assert len(worker.adapter.ended) == 1
    assert started.done


def test_a_test_can_make_a_deadline_pass(worker: testing.Worker) -> None:
    started = worker.start("hold", timeout=PATIENCE)
    assert worker.adapter.entered.wait(PATIENCE)
    started.expire()
    with pytest.raises(testing.CallError) as caught:
        started.result(PATIENCE)
    assert caught.value.reason == "timeout"
    assert worker.adapter.ended == ["cancelled True, 0.0 s left"]


def test_a_deadline_passes_on_its_own(worker: testing.Worker) -> None:
    with pytest.raises(testing.CallError, match=r"^timeout: ") as caught:
        worker.call("hold", timeout=0.01)
    assert caught.value.reason == "timeout"


def test_no_more_calls_run_at_once_than_allowed(worker: testing.Worker) -> None:
    first = worker.start("hold")
    assert worker.adapter.entered.wait(PATIENCE)
    second = worker.start("greet", {"name": "Ada"})
    with pytest.raises(TimeoutError):
        second.result(0.05)
    first.cancel()
    assert second.result(PATIENCE) == {"result": "Hello Ada of testing"}


def test_a_stream_yields_its_chunks(worker: testing.Worker) -> None:
    assert list(worker.stream("count", {"to": 3})) == [
        {"number": 1, "is_final": False},
        {"number": 2, "is_final": False},
        {"number": 3, "is_final": True},
    ]
    assert list(worker.stream("ticks", {"count": 2})) == [
        {"tick": 0, "is_final": False},
        {"tick": 1, "is_final": False},
    ]
    assert list(worker.stream("double", {"number": 2})) == [{"result": 4, "is_final": True}]


def test_closing_a_stream_closes_its_command(worker: testing.Worker) -> None:
    chunks = worker.stream("count", {"to": 100})
    assert next(chunks)["number"] == 1
    assert worker.adapter.ended == []
    chunks.close()
    assert worker.adapter.ended == ["count"]


def test_a_stream_raises_its_commands_exception(worker: testing.Worker) -> None:
    chunks = worker.stream("broken_stream")
    assert next(chunks) == {"result": 1, "is_final": False}
    with pytest.raises(ValueError, match="no more"):
        next(chunks)
    with pytest.raises(testing.CallError, match="missing to"):
        next(worker.stream("count"))


def test_asynchronous_tests_await_calls_and_streams(worker: testing.Worker) -> None:
    async def calls() -> None:
        assert await worker.acall("double", {"number": 3}) == {"result": 6}
        assert await worker.acall("greet", {"name": "A"}) == {"result": "Hello A of testing"}
        chunks = [chunk["tick"] async for chunk in worker.astream("ticks", {"count": 3})]
        assert chunks == [0, 1, 2]
        stream = worker.astream("count", {"to": 100})
        assert (await stream.__anext__())["number"] == 1
        await stream.aclose()
        assert worker.adapter.ended == ["count"]
        with pytest.raises(ValueError, match="no good"):
            await worker.acall("fail")

    asyncio.run(calls())


def test_a_stop_iteration_ends_an_awaited_call() -> None:
    class First(Adapter):
        @command
        def first(self, items: list[int]) -> int:
            return next(iter(items))

    async def call() -> None:
        with testing.Worker(First) as worker:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await asyncio.wait_for(worker.acall("first", {"items": []}), PATIENCE)
            assert await worker.acall("first", {"items": [7]}) == {"result": 7}

    asyncio.run(call())


def test_a_cancelled_task_cancels_its_call(worker: testing.Worker) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(worker.acall("hold"))
        await asyncio.to_thread(worker.adapter.entered.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    # The next call runs when that one has ended.
    assert worker.call("greet", {"name": "A"}) == {"result": "Hello A of testing"}
    assert worker.adapter.ended == [worker.adapter.ended[0]]


def test_one_call_needs_no_worker() -> None:
    closed = Kept.closed
    assert testing.call(Kept, "double", {"number": 2}) == {"result": 4}
    assert list(testing.stream(Kept, "count", {"to": 1})) == [{"number": 1, "is_final": True}]
    assert Kept.closed == closed + 2

    async def both() -> None:
        assert await testing.acall(Kept, "double", {"number": 2}) == {"result": 4}
        assert [chunk async for chunk in testing.astream(Kept, "count", {"to": 1})] == [
            {"number": 1, "is_final": True}
        ]

    asyncio.run(both())


def test_what_commands_report_is_kept(worker: testing.Worker) -> None:
    options: testing.Options = {"request_id": "r", "session_id": "s"}
    assert worker.call("train", {"epochs": 4}, **options) == {"result": 4}
    assert worker.progress == [
        testing.Progress(epoch / 4, f"epoch {epoch}", "train", "r") for epoch in range(1, 5)
    ]
    measurements = {"epochs": 4, "loss": 0.5}
    (event,) = worker.events
    assert event == ("trained", measurements, {"when": "2026-01-31"}, "train", "r", "s")

    worker.events.clear()
    worker.progress.clear()
    calls = [{"n": n} for n in range(3)]
    assert worker.batch("reporting_batch", calls) == [{"result": n} for n in range(3)]
    assert [event.measurements for event in worker.events] == calls
    assert [report.fraction for report in worker.progress] == [0.5, 0.5, 0.5]

    worker.events.clear()
    assert len(list(worker.stream("reporting_stream"))) == 1
    assert worker.progress[-1].message == "half"
    assert [event.name for event in worker.events] == ["end"]


def test_a_report_that_cannot_be_sent_is_an_error_of_the_command(worker: testing.Worker) -> None:
    with pytest.raises(ValueError, match="the measurement 'loss' of 'bad' is nan"):
        worker.call("report_badly")
    assert worker.events == []


def test_reports_after_the_end_of_a_call_are_dropped(worker: testing.Worker) -> None:
    worker.call("report_late")
    worker.adapter.late.progress(0.9)
    worker.adapter.late.telemetry("late", {})
    assert worker.progress == []
    assert worker.events == []


def test_the_commands_are_listed(worker: testing.Worker) -> None:
    (greet,) = [command for command in worker.commands if command["name"] == "greet"]
    assert greet["signature"] == "greet(name: str)"


class OddError(Exception):
    """Raises at every access, like the exceptions of lazy clients."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise KeyError(name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise SystemExit(1)


class Odd(Adapter):
    @command
    def fail(self) -> None:
        raise OddError("hm")


def test_an_exception_whose_own_code_raises_is_described() -> None:
    with testing.Worker(Odd) as worker:
        with pytest.raises(OddError) as caught:
            worker.call("fail")
        error = testing.error_of(caught.value)
    assert error.reason == "python_error"
    assert error.message.endswith("OddError: hm")
    assert error.details["type"].endswith("OddError")
    assert 'raise OddError("hm")' in error.details["traceback"]


class TwoWay(Adapter):
    @command
    def plan(self, goal: str, context: Context) -> list[Any]:
        return [context.call("lookup", goal=goal, step=step) for step in range(2)]

    @command
    async def aplan(self, goal: str, context: Context) -> Any:
        return await asyncio.gather(
            *(context.acall("lookup", goal=goal, step=step) for step in range(2))
        )

    @command
    def asks_with_an_object(self, context: Context) -> Any:
        return context.call("lookup", it=object())

    @command
    async def aasks_with_an_object(self, context: Context) -> Any:
        return await context.acall("lookup", it=object())

    @command
    def total(self, rows: Input[int]) -> int:
        return sum(rows)

    @command
    async def atotal(self, rows: Input[int]) -> int:
        return sum([row async for row in rows])

    @command
    def first(self, rows: Input[int]) -> int:
        return next(rows)

    @command
    def waits(self, context: Context) -> Any:
        return context.call("wait")


def test_tools_are_functions_of_the_test() -> None:
    def lookup(goal: str, step: int) -> Any:
        return {"goal": goal, "raw": b"\xff", "step": step}

    async def alookup(goal: str, step: int) -> Any:
        return lookup(goal, step)

    expected = {"result": [lookup("tea", step) for step in range(2)]}
    for tool in (lookup, alookup):
        for name in ("plan", "aplan"):
            assert testing.call(TwoWay, name, {"goal": "tea"}, tools={"lookup": tool}) == expected


def test_what_a_tool_raises_is_a_tool_error() -> None:
    def lookup(**_args: Any) -> None:
        raise KeyError("tea")

    with pytest.raises(ToolError) as raised:
        testing.call(TwoWay, "plan", {"goal": "tea"}, tools={"lookup": lookup})
    assert (raised.value.code, raised.value.message) == ("exception", "'tea'")
    assert isinstance(raised.value.__cause__, KeyError)

    def refuses(**_args: Any) -> None:
        raise ToolError("sold_out", "no tea", data={"left": 0})

    with pytest.raises(ToolError) as raised:
        testing.call(TwoWay, "plan", {"goal": "tea"}, tools={"lookup": refuses})
    assert (raised.value.code, raised.value.data) == ("sold_out", {"left": 0})
    with pytest.raises(ToolError, match="offers no tools"):
        testing.call(TwoWay, "plan", {"goal": "tea"})


def test_arguments_of_a_tool_that_cannot_be_sent_raise_a_type_error() -> None:
    for name in ("asks_with_an_object", "aasks_with_an_object"):
        with pytest.raises(TypeError, match=r"args\.it is of type object, which cannot be sent"):
            testing.call(TwoWay, name, tools={"lookup": print})


def test_a_call_is_cancelled_while_it_waits_for_a_tool() -> None:
    asked, left = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        left.wait()

    with testing.Worker(TwoWay) as worker:
        call = worker.start("waits", tools={"wait": wait})
        assert asked.wait(PATIENCE)
        call.cancel()
        with pytest.raises(testing.CallError, match="the call was cancelled"):
            call.result(PATIENCE)
    left.set()


def test_inputs_are_iterables_that_are_taken_as_they_are_read() -> None:
    assert testing.call(TwoWay, "total", inputs={"rows": range(1000)}) == {"result": 499_500}
    assert testing.call(TwoWay, "atotal", inputs={"rows": range(1000)}) == {"result": 499_500}
    assert testing.call(TwoWay, "total", {"rows": [1, 2]}) == {"result": 3}
    taken = []
    closed = threading.Event()

    def rows() -> Iterator[int]:
        try:
            for number in itertools.count():
                taken.append(number)
                yield number
        finally:
            closed.set()

    assert testing.call(TwoWay, "first", inputs={"rows": rows()}) == {"result": 0}
    assert closed.wait(PATIENCE)
    assert len(taken) <= 128


def test_an_iterable_that_raises_raises_an_input_error() -> None:
    def rows() -> Iterator[int]:
        yield 1
        raise KeyError("row")

    with pytest.raises(InputError) as raised:
        testing.call(TwoWay, "total", inputs={"rows": rows()})
    assert (raised.value.type, raised.value.message) == ("KeyError", "'row'")
    with pytest.raises(testing.CallError, match="rows\\[1\\]: expected int, got str 'x'"):
        testing.call(TwoWay, "total", inputs={"rows": [1, "x"]})
