from __future__ import annotations

import sys
from typing import Any

import pytest

from snakepit_bridge import CommandError
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._values.fields import decode_extended


def failure_of(error: BaseException) -> CallError:
    with pytest.raises(type(error)) as caught:
        raise error
    return CallError.of(caught.value)


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_an_exception_without_a_text_is_described() -> None:
    failure = failure_of(BrokenError())
    assert "__str__ failed" in failure.message
    assert failure.frames[-1][2] == "failure_of"


def test_only_text_notes_are_sent() -> None:
    error = ValueError("x")
    for notes, told in ((["a", 1, "b"], ["a", "b"]), (5, []), (["n"] * 100, ["n"] * 20)):
        error.__notes__ = notes  # type: ignore[attr-defined]
        assert CallError.of(error).notes == told


@pytest.mark.skipif(sys.version_info < (3, 11), reason="add_note is new in Python 3.11")
def test_notes_are_sent() -> None:
    error: Any = ValueError("x")
    error.add_note("seen in row 7")
    assert failure_of(error).notes == ["seen in row 7"]


def test_causes_are_sent_up_to_a_depth() -> None:
    error: Exception = ValueError("0")
    for number in range(1, 20):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    messages = []
    told = failure_of(error).cause
    while told is not None:
        messages.append(told.message)
        told = told.cause
    assert messages == [str(number) for number in range(18, 10, -1)]
    error.__cause__ = error
    assert failure_of(error).cause is not None


def test_the_description_is_bounded_and_can_be_sent() -> None:
    failure = failure_of(ValueError("x" * 1_000_000 + "\ud800"))
    assert len(failure.message) < 20_000
    assert failure.message.endswith("\\ud800")


def test_data_that_cannot_be_sent_is_replaced_by_a_message() -> None:
    failure = failure_of(CommandError("code", data={"x": [object()]}))
    assert failure.reason == "command_error"
    assert failure.code == "code"
    assert "data.x[0] is of type object" in decode_extended(failure.data)
    assert decode_extended(failure_of(CommandError("c", data={1: b"x"})).data) == {"1": b"x"}
    assert failure_of(CommandError("code")).data == b""
