"""The two-way part of a call, between a command and a transport in Python."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Optional

import pytest

from snakepit_bridge import CallCancelledError, InputError, ToolError
from snakepit_bridge._two_way.conversation import Conversation, ProtocolError
from snakepit_bridge._two_way.event_loops import resume


class Wire:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.on_withdraw: Callable[[], object] = int

    def ask(self, ask_id: int, tool: str, args: dict[str, Any], _timeout: Optional[float]) -> None:
        if tool == "unsendable":
            raise ValueError("args.it cannot be sent")
        self.sent.append(("ask", ask_id, tool, args))

    def withdraw(self, ask_id: int) -> None:
        self.on_withdraw()
        self.sent.append(("withdraw", ask_id))

    def demand(self, input_id: int, count: int, size: int) -> None:
        self.sent.append(("demand", input_id, count, size))

    def stop(self, input_id: int) -> None:
        self.sent.append(("stop", input_id))

    def take(self) -> list[Any]:
        sent, self.sent = self.sent, []
        return sent


def item(value: object) -> tuple[int, Callable[[], object]]:
    return 1, lambda: value


def test_a_place_is_free_once_the_client_knows_that_an_ask_is_withdrawn() -> None:
    wire = Wire()
    conversation = Conversation(wire, ["a", "b"], max_asks=1)
    first = conversation.ask("a", {}, None, int)
    wire.on_withdraw = lambda: conversation.ask("b", {}, None, int)
    first.withdraw()
    assert wire.take() == [("ask", 1, "a", {}), ("withdraw", 1), ("ask", 2, "b", {})]


def test_asks_beyond_the_limit_wait_and_may_be_withdrawn() -> None:
    wire = Wire()
    done: list[int] = []
    conversation = Conversation(wire, ["a"], max_asks=2)
    asks = [conversation.ask("a", {}, None, functools.partial(done.append, n)) for n in range(4)]
    assert [sent[1] for sent in wire.take()] == [1, 2]
    asks[2].withdraw()
    assert wire.take() == []
    conversation.answer(2, lambda: "two")
    assert (done, asks[1].result()) == ([1], "two")
    assert [sent[1] for sent in wire.take()] == [4]
    conversation.answer(2, lambda: "again")
    assert wire.take() == []


def test_an_ask_that_cannot_be_sent_fails_and_frees_its_place() -> None:
    wire = Wire()
    conversation = Conversation(wire, ["a"], max_asks=1)
    with pytest.raises(ValueError, match="cannot be sent"):
        conversation.call("unsendable", {}, None)
    conversation.ask("a", {}, None, int)
    assert wire.take() == [("ask", 2, "a", {})]


def test_at_the_end_all_who_wait_learn_of_it_and_nobody_waits_any_more() -> None:
    wire = Wire()
    done: list[int] = []
    conversation = Conversation(wire, ["a"], max_asks=1)
    asks = [conversation.ask("a", {}, None, functools.partial(done.append, n)) for n in range(2)]
    conversation.end("closed")
    assert done == [0, 1]
    for ask in asks:
        with pytest.raises(ToolError, match="closed"):
            ask.result()
    conversation.end("cancelled")
    conversation.end("closed")
    with pytest.raises(CallCancelledError):
        conversation.call("a", {}, None)
    late = conversation.ask("a", {}, None, lambda: done.append(2))
    assert (done, late.is_answered()) == ([0, 1, 2], True)


def test_an_answer_is_taken_while_the_loop_that_waits_for_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.new_event_loop()
    call_soon = loop.call_soon_threadsafe

    def close(*args: Any) -> None:
        loop.close()
        call_soon(*args)

    monkeypatch.setattr(loop, "call_soon_threadsafe", close)
    conversation = Conversation(Wire(), ["a"])
    wake = functools.partial(resume, loop, loop.create_future())
    ask = conversation.ask("a", {}, None, wake)
    conversation.answer(1, lambda: "one")
    assert ask.result() == "one"
    wake()


def test_the_client_is_asked_for_items_in_halves_of_its_bound() -> None:
    wire = Wire()
    conversation = Conversation(wire)
    rows = conversation.input(7, "rows", max_items=4)
    conversation.start_inputs()
    assert wire.take() == [("demand", 7, 4, 262_144)]
    conversation.add(7, map(item, range(4)))
    with pytest.raises(ProtocolError, match="more items than it has asked for"):
        conversation.add(7, [item(4)])
    assert [next(rows), next(rows)] == [0, 1]
    assert wire.take() == []
    assert next(rows) == 2
    assert wire.take() == [("demand", 7, 2, 2)]
    conversation.end_input(7)
    assert list(rows) == [3]
    assert wire.take() == []
    with pytest.raises(ProtocolError, match="the call has no input 8"):
        conversation.end_input(8)


def test_an_input_fails_after_its_items_and_stops_once() -> None:
    wire = Wire()
    conversation = Conversation(wire)
    rows, others = conversation.input(1, "rows"), conversation.input(2, "others")
    conversation.start_inputs()
    conversation.add(1, [item("a")])
    conversation.end_input(1, InputError("broken", type="RuntimeError"))
    wire.take()
    assert next(rows) == "a"
    with pytest.raises(InputError, match="RuntimeError: broken"):
        next(rows)
    assert list(rows) == []
    with others:
        pass
    others.close()
    conversation.add(2, [item("ignored")])
    assert (list(others), wire.take()) == ([], [("stop", 2)])
    conversation.end("cancelled")
