from __future__ import annotations

import threading

import pytest
from client import PATIENCE

from snakepit_bridge import BuiltinAdapter, Context
from snakepit_bridge._commands.call import Call
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._threads.runner import Runner

PING = Registry(BuiltinAdapter())["ping"]


def make_call(call_id: int = 0) -> Call:
    return Call(PING, dict, Context(session_id=str(call_id)), call_id=call_id)


def test_a_call_that_has_ended_is_not_cancelled() -> None:
    runner, call = Runner(1), make_call()
    runner.enter(call)
    runner.leave(call, failed=False)
    runner.cancel(call)
    assert not call.context.cancelled


def test_a_call_cancelled_before_it_enters_takes_no_place() -> None:
    runner, call, other = Runner(1), make_call(), make_call()
    runner.cancel(call)
    with pytest.raises(CallError) as caught:
        runner.enter(call)
    assert caught.value.reason == "cancelled"
    runner.leave(call, failed=True)
    runner.enter(other)
    # A cancelled call is no error of the worker's.
    assert (runner.handled, runner.failed) == (1, 0)


def test_waiting_for_all_ends_when_the_last_call_has_left() -> None:
    runner, call = Runner(1), make_call(3)
    runner.enter(call)
    assert not runner.wait_idle(None, 0)
    assert not runner.wait_idle(3, 0)
    assert runner.wait_idle(4, 0)
    thread = threading.Thread(target=runner.leave, args=(call,), kwargs={"failed": False})
    thread.start()
    assert runner.wait_idle(None, PATIENCE)
    thread.join()


def test_every_place_is_released() -> None:
    runner = Runner(3)
    done: list[int] = []

    def serve(call: Call) -> None:
        runner.enter(call)
        assert len(runner.running_call_ids()) <= 3
        done.append(call.call_id)
        runner.leave(call, failed=False)

    threads = [threading.Thread(target=serve, args=(make_call(n),)) for n in range(1, 101)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(1, 101))
    calls = [make_call() for _ in range(3)]
    for call in calls:
        runner.enter(call)
    assert runner.in_flight() == 3
