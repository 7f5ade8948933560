"""The two-way part of a call, for transports in Python; the native server has its own."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Optional, Protocol

from snakepit_bridge._errors.two_way import CallCancelledError, InputError, ToolError
from snakepit_bridge._two_way.inputs import Input
from snakepit_bridge._two_way.tools import timed_out

#: How far the client may run ahead if it names no bounds.
MAX_ITEMS = 64
MAX_BYTES = 256 * 1024
#: How far at most, whatever it names.
MOST_ITEMS = 64 * 1024
MOST_BYTES = 16 * 1024 * 1024

#: Why a call has nothing more from its client, as its command reads it.
_ENDS = {
    "closed": "the caller has ended its side of the call",
    "finished": "the call has ended",
}

#: Returns a value that was sent, or raises why there is none.
Decode = Callable[[], object]


class Wire(Protocol):
    """Sends to the client. None of the methods waits."""

    def ask(self, ask_id: int, tool: str, args: dict[str, Any], timeout: Optional[float]) -> None:
        """May raise why the arguments cannot be sent."""

    def withdraw(self, ask_id: int) -> None: ...

    def demand(self, input_id: int, count: int, size: int) -> None: ...

    def stop(self, input_id: int) -> None: ...


class ProtocolError(Exception):
    """The client has sent what it must not send."""


class Conversation:
    """The asks and the input streams of one call. Safe to use from any thread.

    The command uses it as `Asks`; the transport calls `answer`, `add`, `end_input`, `add_demand`
    and `end`.
    """

    def __init__(self, wire: Wire, tools: Iterable[str] = (), max_asks: int = 0) -> None:
        self.tools = tuple(tools)
        self.wire = wire
        self.changed = threading.Condition(threading.Lock())
        #: Why nothing more comes: "cancelled", "finished" or "closed".
        self.ended = ""
        self._max_asks = max_asks
        self._ids = itertools.count(1)
        self._asks: dict[int, PendingAsk] = {}
        #: Those beyond `max_asks`.
        self._held: deque[PendingAsk] = deque()
        self._inputs: dict[int, Stream] = {}
        #: How many chunks the client takes, and how many bytes of them.
        self._chunks = self._bytes = 0
        #: Whether it takes none any more.
        self._left = False

    def call(self, tool: str, args: dict[str, Any], timeout: Optional[float], /) -> object:
        ask = PendingAsk(self, next(self._ids), tool, args, timeout)
        self._start(ask)
        with self.changed:
            answered = self.changed.wait_for(ask.is_answered, timeout)
        if not answered:
            ask.withdraw()
            raise timed_out(tool, timeout)
        return ask.result()

    def ask(
        self,
        tool: str,
        args: dict[str, Any],
        timeout: Optional[float],
        done: Callable[[], object],
        /,
    ) -> PendingAsk:
        ask = PendingAsk(self, next(self._ids), tool, args, timeout)
        ask.done = done
        self._start(ask)
        return ask

    def input(self, input_id: int, name: str, max_items: int = 0, max_bytes: int = 0) -> Input[Any]:
        """Adds an input stream, and returns it for the command."""
        items, size = min(max_items, MOST_ITEMS), min(max_bytes, MOST_BYTES)
        stream = Stream(self, input_id, items or MAX_ITEMS, size or MAX_BYTES)
        self._inputs[input_id] = stream
        return Input(name, stream)

    def start_inputs(self) -> None:
        """The command can read its inputs: the client may send the first items."""
        for stream in self._inputs.values():
            stream.start()

    def answer(self, ask_id: int, result: Decode) -> None:
        """The client has answered an ask."""
        with self.changed:
            ask = self._asks.pop(ask_id, None)
            if ask is None:
                return
            ask.answer = result
            sent = self._next_held()
            self.changed.notify_all()
        if ask.done is not None:
            ask.done()
        self._send(sent)

    def add(self, input_id: int, items: Iterable[tuple[int, Decode]]) -> None:
        """The client has sent items, each with its size."""
        self._stream(input_id).add(items)

    def end_input(self, input_id: int, error: Optional[InputError] = None) -> None:
        """The client sends no further items."""
        self._stream(input_id).end(error)

    def add_demand(self, count: int, size: int) -> None:
        """The client takes further chunks."""
        with self.changed:
            self._chunks += count
            self._bytes += size
            self.changed.notify_all()

    def wait_demand(self, size: int) -> None:
        """Waits until the client takes a chunk of this size, or the call is cancelled."""
        with self.changed:
            self.changed.wait_for(lambda: (self._chunks > 0 and self._bytes > 0) or self._left)
            self._chunks -= 1
            self._bytes -= size

    def expects_more(self) -> bool:
        """Whether the command may wait for something that the client has not sent."""
        with self.changed:
            return bool(self.tools) or any(stream.is_open for stream in self._inputs.values())

    def end(self, why: str) -> None:
        """Nothing more comes: the call is "cancelled" or "finished", or its client's side "closed".

        Nobody waits any longer, in whichever thread. Chunks of a call that has "finished" wait for
        demand until it is "cancelled" as well.
        """
        with self.changed:
            self._left = self._left or why == "cancelled"
            if self.ended in ("", "closed"):
                self.ended = why
            wakes = [ask.take_wake() for ask in (*self._asks.values(), *self._held)]
            wakes += [stream.take_wake() for stream in self._inputs.values()]
            self.changed.notify_all()
        for wake in wakes:
            if wake is not None:
                wake()

    def withdraw(self, ask: PendingAsk) -> None:
        with self.changed:
            if ask in self._held:
                self._held.remove(ask)
                return
            if ask.ask_id not in self._asks or self.ended:
                self._asks.pop(ask.ask_id, None)
                return
        # The client learns of it before it is asked again.
        self.wire.withdraw(ask.ask_id)
        with self.changed:
            is_free = self._asks.pop(ask.ask_id, None) is not None
            sent = self._next_held() if is_free else []
        self._send(sent)

    def _start(self, ask: PendingAsk) -> None:
        with self.changed:
            ended = self.ended
            held = self._max_asks > 0 and len(self._asks) >= self._max_asks
            if held:
                self._held.append(ask)
            elif not ended:
                self._asks[ask.ask_id] = ask
        if not ended and not held:
            self._send([ask])
        elif ended and ask.done is not None:
            ask.done()

    def _next_held(self) -> list[PendingAsk]:
        if not self._held:
            return []
        ask = self._held.popleft()
        self._asks[ask.ask_id] = ask
        return [ask]

    def _send(self, asks: list[PendingAsk]) -> None:
        for ask in asks:
            try:
                self.wire.ask(ask.ask_id, ask.tool, ask.args, ask.timeout)
            except Exception as error:
                self.answer(ask.ask_id, _raising(error))

    def _stream(self, input_id: int) -> Stream:
        stream = self._inputs.get(input_id)
        if stream is None:
            raise ProtocolError(f"the call has no input {input_id}")
        return stream


def _raising(error: Exception) -> Decode:
    def result() -> object:
        raise error

    return result


class PendingAsk:
    """A tool that was asked."""

    __slots__ = ("_conversation", "answer", "args", "ask_id", "done", "timeout", "tool")

    def __init__(
        self,
        conversation: Conversation,
        ask_id: int,
        tool: str,
        args: dict[str, Any],
        timeout: Optional[float],
    ) -> None:
        self.ask_id = ask_id
        self.tool = tool
        self.args = args
        self.timeout = timeout
        self.answer: Optional[Decode] = None
        #: Called once there is an answer, or will be none.
        self.done: Optional[Callable[[], object]] = None
        self._conversation = conversation

    def take_wake(self) -> Optional[Callable[[], object]]:
        wake, self.done = self.done, None
        return wake

    def is_answered(self) -> bool:
        return self.answer is not None or bool(self._conversation.ended)

    def result(self) -> object:
        if self._conversation.ended == "cancelled":
            raise CallCancelledError
        if self.answer is None:
            raise ToolError("closed", _ENDS[self._conversation.ended], tool=self.tool)
        try:
            return self.answer()
        except ToolError as error:
            error.tool = self.tool
            raise

    def withdraw(self) -> None:
        self._conversation.withdraw(self)


class Stream:
    """The source of an input stream."""

    def __init__(
        self, conversation: Conversation, input_id: int, max_items: int, max_bytes: int
    ) -> None:
        self._conversation = conversation
        self._changed = conversation.changed
        self._id = input_id
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[int, Decode]] = deque()
        #: How many items, and bytes, the client may still send.
        self._count = self._bytes = 0
        #: What the command reads now.
        self._handed = (0, 0)
        #: What it has read, for which the client has not been asked again.
        self._read = (0, 0)
        self._state = "open"
        self._error: Optional[InputError] = None
        self._wake: Optional[Callable[[], object]] = None

    # Called by the command.

    def take(self) -> list[Any]:
        self._grant()
        with self._changed:
            self._changed.wait_for(self._is_readable)
            items = self._hand_out()
        return [decode() for _, decode in items]

    def poll(self) -> Optional[list[Any]]:
        self._grant()
        with self._changed:
            items = self._hand_out() if self._is_readable() else None
        return None if items is None else [decode() for _, decode in items]

    def on_ready(self, done: Callable[[], object], /) -> None:
        with self._changed:
            if not self._is_readable():
                self._wake = done
                return
        done()

    def check(self) -> None:
        if self._conversation.ended == "cancelled":
            raise CallCancelledError

    def stop(self) -> None:
        with self._changed:
            was_open = self._state == "open"
            self._state = "stopped"
            self._items.clear()
        if was_open and not self._conversation.ended:
            self._conversation.wire.stop(self._id)

    # Called by the conversation.

    def start(self) -> None:
        self._ask_for(self._max_items, self._max_bytes)

    def add(self, items: Iterable[tuple[int, Decode]]) -> None:
        with self._changed:
            for size, decode in items:
                if self._count <= 0 or self._bytes <= 0:
                    raise ProtocolError(
                        f"the input {self._id} got more items than it has asked for"
                    )
                self._count -= 1
                self._bytes -= size
                if self._state == "open":
                    self._items.append((size, decode))
            wake = self.take_wake()
            self._changed.notify_all()
        if wake is not None:
            wake()

    def end(self, error: Optional[InputError]) -> None:
        with self._changed:
            if self._state == "open":
                self._state = "ended"
                self._error = error
            wake = self.take_wake()
            self._changed.notify_all()
        if wake is not None:
            wake()

    def take_wake(self) -> Optional[Callable[[], object]]:
        wake, self._wake = self._wake, None
        return wake

    @property
    def is_open(self) -> bool:
        return self._state == "open"

    def _is_readable(self) -> bool:
        return bool(self._items) or self._state != "open" or bool(self._conversation.ended)

    def _hand_out(self) -> list[tuple[int, Decode]]:
        """Some of the items, so that others arrive while the command reads these."""
        if self._conversation.ended == "cancelled":
            raise CallCancelledError
        half = max(1, self._max_items // 2)
        items = [self._items.popleft() for _ in range(min(half, len(self._items)))]
        self._handed = (len(items), sum(size for size, _ in items))
        if not items:
            error, self._error = self._error, None
            if error is not None:
                raise error
            if self._state == "open":
                raise InputError(_ENDS[self._conversation.ended])
        return items

    def _grant(self) -> None:
        """Counts what was handed out as read; asks the client for half of the bounds at once."""
        with self._changed:
            count, size = (a + b for a, b in zip(self._read, self._handed))
            self._handed = (0, 0)
            enough = count >= max(1, self._max_items // 2) or size >= max(1, self._max_bytes // 2)
            self._read = (0, 0) if enough else (count, size)
        if enough:
            self._ask_for(count, size)

    def _ask_for(self, count: int, size: int) -> None:
        with self._changed:
            if self._state != "open" or self._conversation.ended:
                return
            self._count += count
            self._bytes += size
        self._conversation.wire.demand(self._id, count, size)
