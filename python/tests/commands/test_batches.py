"""Commands that take batches: their parameters, what they return, and how they are tested."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from snakepit_bridge import Adapter, CommandError, Context, command, testing
from snakepit_bridge._commands.registry import Registry


@dataclass
class Review:
    text: str
    stars: int = 3


class Point(TypedDict):
    x: float


class Batches(Adapter):
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started = threading.Event()
        self.go_on = threading.Event()

    @command(batch=4, wait_ms=20)
    def columns(self, text: list[str], times: list[int]) -> list[str]:
        self.sizes.append(len(text))
        return [one * count for one, count in zip(text, times)]

    @command(batch=4)
    def objects(self, reviews: list[Review]) -> list[object]:
        return [CommandError("empty") if not one.text else one.stars for one in reviews]

    @command(batch=4)
    def dicts(self, calls: list[dict[str, int]], contexts: list[Context]) -> list[Any]:
        return [[sum(call.values()), context.request_id] for call, context in zip(calls, contexts)]

    @command(batch=4)
    async def points(self, points: list[Point], context: Any) -> list[float]:
        return [point["x"] / len(context) for point in points]

    @command(batch=4, wait_ms=60_000)
    def held(self, calls: list[dict[str, int]], contexts: list[Context]) -> list[Any]:
        self.sizes.append(len(calls))
        self.started.set()
        if len(calls) > 1:
            self.go_on.wait()
        return [[call["n"], context.cancelled] for call, context in zip(calls, contexts)]

    @command(batch=2)
    def raises(self, calls: list[Any]) -> list[Any]:
        raise RuntimeError(f"{len(calls)} calls")


def test_each_call_has_its_own_result() -> None:
    with testing.Worker(Batches) as worker:
        calls = [{"text": "a", "times": n} for n in range(6)]
        results = worker.batch("columns", calls)
        assert results == [{"result": "a" * n} for n in range(6)]
        assert worker.adapter.sizes == [4, 2]
        assert worker.call("columns", {"text": "b", "times": 2}) == {"result": "bb"}


def test_a_single_parameter_gets_the_arguments_of_each_call() -> None:
    with testing.Worker(Batches) as worker:
        good, empty, unknown, missing = worker.batch(
            "objects", [{"text": "x", "stars": 5}, {"text": ""}, {"text": "x", "star": 1}, {}]
        )
        assert good == {"result": 5}
        assert isinstance(empty, CommandError)
        assert testing.error_of(empty).details["code"] == "empty"
        for error, place in ((unknown, "star"), (missing, "text")):
            assert isinstance(error, testing.CallError)
            assert error.reason == "invalid_args"
            assert error.details["errors"][0]["path"] == [place]
        dicts = worker.batch("dicts", [{"a": 1, "b": 2}, {"c": 4}], request_id="r")
        assert dicts == [{"result": [3, "r"]}, {"result": [4, "r"]}]
        assert worker.batch("points", [{"x": 4.0}, {"x": 2.0}]) == [
            {"result": 2.0},
            {"result": 1.0},
        ]


def test_an_exception_fails_every_call() -> None:
    with testing.Worker(Batches) as worker:
        for error in worker.batch("raises", [{}, {}]):
            assert isinstance(error, RuntimeError)
            assert str(error) == "2 calls"


def test_a_call_leaves_a_batch_that_runs_and_the_others_do_not_notice() -> None:
    with testing.Worker(Batches, max_concurrency=2) as worker:
        adapter = worker.adapter
        assert worker.call("held", {"n": 0}) == {"result": [0, False]}
        adapter.started.clear()
        # The next batch has as many calls as there were, one; it waits for more once it has had.
        adapter.go_on.set()
        assert len(worker.batch("held", [{"n": n} for n in range(4)])) == 4
        adapter.go_on.clear()
        adapter.started.clear()
        calls = [worker.start("held", {"n": n}) for n in range(4)]
        adapter.started.wait()
        calls[2].cancel()
        with pytest.raises(testing.CallError, match="cancelled"):
            calls[2].result(60)
        assert not calls[0].done
        adapter.go_on.set()
        left = [calls[n].result(60) for n in (0, 1, 3)]
        assert left == [{"result": [n, False]} for n in (0, 1, 3)]


def test_a_command_without_batches_is_refused() -> None:
    class Plain(Adapter):
        @command
        def one(self) -> int:
            return 1

    with testing.Worker(Plain) as worker, pytest.raises(TypeError, match="takes no batches"):
        worker.batch("one", [{}])


def test_an_override_takes_batches_as_well() -> None:
    class More(Batches):
        def objects(self, reviews: list[Review]) -> list[object]:
            return [len(reviews)] * len(reviews)

    with testing.Worker(More) as worker:
        assert worker.batch("objects", [{"text": "x"}] * 2) == [{"result": 2}] * 2


def test_the_description_is_that_of_one_call() -> None:
    commands = Registry(Batches())
    columns, objects, dicts = (
        commands[name].describe() for name in ("columns", "objects", "dicts")
    )
    assert columns["signature"] == "columns(text: str, times: int)"
    assert columns["batch"] == {"size": 4, "wait_ms": 20.0, "max_bytes": 16_777_216}
    assert objects["signature"] == "objects(text: str, stars: int = ...)"
    assert [each["required"] for each in objects["parameters"]] == [True, False]
    assert dicts["signature"] == "dicts(**calls)"
    assert commands.batch_sizes()["raises"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, r"batch=\.\.\.\) from 1 to 1024, got 0"),
        ({"batch": True}, "got True"),
        ({"batch": 4, "wait_ms": -1}, r"wait_ms=\.\.\.\) from 0 to 60000, got -1"),
        ({"batch": 4, "wait_ms": float("nan")}, "got nan"),
        ({"batch": 4, "max_bytes": 0}, "of 1 or more, got 0"),
        ({"wait_ms": 4}, "needs batch="),
        ({"max_bytes": 4}, "needs batch="),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        command(**options)


def test_a_generator_takes_no_batches() -> None:
    def plain(calls: Any) -> Any:
        yield calls

    async def asynchronous(calls: Any) -> Any:
        yield calls

    for function in (plain, asynchronous):
        with pytest.raises(TypeError, match=f"is on the generator .*{function.__name__}"):
            command(batch=4)(function)

    class Overridden(Batches):
        def raises(self, calls: list[Any]) -> Any:
            yield calls

    with pytest.raises(TypeError, match=r"is on the generator .*Overridden\.raises"):
        Registry(Overridden())


def _keywords(self: Any, **calls: Any) -> None: ...


def _no_list(self: Any, text: str, times: list[int]) -> None: ...


def _nothing(self: Any, contexts: list[Context]) -> None: ...


def _no_arguments(self: Any, text: list[str]) -> None: ...


def _one_context(self: Any, calls: Any, context: Context) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_keywords, r"cannot take \*\*calls"),
        (_no_list, "'text' is annotated with str, but the function takes batches"),
        (_nothing, "needs a parameter"),
        (_no_arguments, r"cannot be converted to str: annotate it with list\[dict"),
        (_one_context, r"annotate 'context' with list\[Context\]"),
    ],
)
def test_parameters_that_no_batch_fits_are_refused(
    function: Callable[..., Any], message: str
) -> None:
    wrong = type("Wrong", (Adapter,), {"wrong": command(batch=4)(function)})
    with pytest.raises(TypeError, match=message):
        Registry(wrong())
