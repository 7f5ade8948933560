"""Decorators over commands, and other ways to hide that a method is `async` or a generator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from client import SUPPORT, Way
from conftest import Start

ONE = ["plain_async", "wrapped_async", "lazy_async", "in_a_thread", "cached", "partial", "added"]
PLACED = ["static", "static_above", "class_above"]
STREAMS = ["plain_stream", "wrapped_async_stream", "lazy_async_stream", "lazy_stream"]
ITERATORS = ["iterator", "lazy_iterator"]


@pytest.fixture(scope="module")
def worker(shared_way: Callable[..., Way]) -> Way:
    return shared_way("--adapter", "decorated:Decorated", "--max-concurrency", "1")


def test_awaitable_results_are_awaited(worker: Way) -> None:
    for command in (*ONE, *PLACED):
        result, error = worker.call(command, number=1)
        assert result == {"result": 2}, (command, error)
        if worker.streams:
            assert worker.stream(command, number=1)[0] == [{"result": 2}], command
    assert worker.call("own_awaitable")[0] == {"result": "later"}
    error = worker.error("plain_failing", number=7)
    assert (error["type"], error["message"]) == ("LookupError", "7")
    assert "decorated.py" in error["traceback"]


def test_iterators_are_streamed(worker: Way) -> None:
    for command in (*STREAMS, *ITERATORS):
        error = worker.error(command, number=1)
        if command in ITERATORS:
            assert error["reason"] == "invalid_result"
            assert "send a list of its items" in error["message"]
        else:
            assert error["reason"] == "invalid_args", command
            assert "yields a stream of results" in error["message"]
        if worker.streams:
            chunks, error = worker.stream(command, number=1)
            assert chunks == [{"result": 1}, {"result": 2}], (command, error)
    if worker.streams:
        assert worker.stream("lazy_empty_stream")[0] == []


def test_an_error_says_what_cannot_be_unwrapped(worker: Way) -> None:
    error = worker.error("foreign_future")
    assert "of an event loop that does not run here: define it with `async def`" in error["message"]
    error = worker.error("nested")
    assert "result.made is of type coroutine, which cannot be sent; await it" in error["message"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("WithoutSelf", "has no parameter for its object: add `self`"),
        ("Hidden", "is not a command: a decorator above its @command hides it behind a function"),
        (
            "Cached",
            "a decorator above its @command hides it behind a functools.cached_property",
        ),
    ],
)
def test_an_invalid_command_is_reported_at_the_start(start: Start, name: str, told: str) -> None:
    worker = start("--adapter", f"decorated:{name}")
    output = "\n".join(worker.lines())
    assert worker.ended() == 1
    assert f"{name}.ok ({SUPPORT}/decorated.py:" in output or name == "Cached"
    assert told in output
