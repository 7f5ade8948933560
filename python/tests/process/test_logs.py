from __future__ import annotations

import logging

from snakepit_bridge import BuiltinAdapter, Context, RequestIdFilter, command
from snakepit_bridge._commands.call import Call
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._grpcio.grpcio_wire import StreamWire, UnaryWire
from snakepit_bridge._process.logs import _LibraryFilter
from snakepit_bridge._threads.execution import run, stream
from snakepit_bridge._threads.runner import Runner


class Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RequestIdFilter())
        self.ids: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.ids.append(f"{record.getMessage()} {getattr(record, 'request_id', None)}")


class Chatty(BuiltinAdapter):
    log = logging.getLogger("chatty")

    @command
    def say(self) -> None:
        self.log.warning("said")

    @command
    def say_twice(self):  # type: ignore[no-untyped-def]
        try:
            self.log.warning("first")
            yield
            self.log.warning("second")
        finally:
            self.log.warning("last")


def test_records_have_the_id_of_the_running_call_in_any_order_of_calls() -> None:
    seen, runner, registry = Seen(), Runner(3), Registry(Chatty())
    Chatty.log.addHandler(seen)

    def call(name: str, request_id: str) -> Call:
        return Call(registry[name], dict, Context(request_id=request_id))

    one = stream(runner, call("say_twice", "r1"), StreamWire("r1", 99))
    two = stream(runner, call("say_twice", "r2"), StreamWire("r2", 99))
    next(one)
    next(two)
    run(runner, call("say", "r3"), UnaryWire("r3", 99))
    Chatty.log.warning("outside")
    assert next(one, None) is None
    two.close()
    Chatty.log.removeHandler(seen)
    assert seen.ids == [
        "first r1",
        "first r2",
        "said r3",
        "outside ",
        "second r1",
        "last r1",
        "last r2",
    ]


def test_library_records_pass_from_warning_on_or_if_requested() -> None:
    def passes(name: str, level: int) -> bool:
        record = logging.LogRecord(name, level, __file__, 1, "said", None, None)
        return _LibraryFilter().filter(record)

    assert passes("my_commands.parts", logging.INFO)
    assert passes("snakepit_bridge", logging.INFO)
    for library in ("pytest.inner", "concurrent.futures"):
        assert not passes(library, logging.INFO)
        assert passes(library, logging.WARNING)
        logger = logging.getLogger(library.partition(".")[0])
        logger.setLevel(logging.DEBUG)
        try:
            assert passes(library, logging.DEBUG)
        finally:
            logger.setLevel(logging.NOTSET)
