"""Whatever a command raises, its call is answered, and the worker continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from client import Client, Way
from conftest import Start

ADAPTER = ("--adapter", "exceptions:Exceptions")
SEEDS = range(50)


def check(error: dict[str, object], how: str) -> None:
    assert error["reason"] in ("python_error", "command_error"), error
    assert error["type"], how
    assert "exceptions.py" in str(error["traceback"]), (how, error)
    # The interpreter itself raises this one.
    assert error["frames"] or "async generator raised" in str(error["message"]), how


@pytest.fixture(scope="module")
def worker(shared_way: Callable[..., Way]) -> Way:
    return shared_way(*ADAPTER)


def test_every_exception_arrives_with_type_and_traceback(worker: Way, tmp_path: Path) -> None:
    place = {"directory": str(tmp_path)}
    for how in worker.call("names")[0]["result"]:  # type: ignore[index]
        check(worker.error("fail", how=how, **place), how)
        check(worker.error("fail_async", how=how, **place), how)
        if worker.streams:
            for command in ("fail_stream", "fail_async_stream"):
                chunks, error = worker.stream(command, how=how, **place)
                assert chunks == [{"result": 1}]
                check(error, how)
    assert worker.call("ping")[0]


def test_an_error_is_no_larger_than_a_message_may_be(
    way: Callable[..., Way], tmp_path: Path
) -> None:
    worker = way(*ADAPTER, "--max-message-size", "50000")
    for how in ("data_large", "data_escaped", "long_lines", "large"):
        error = worker.error("fail", how=how, directory=str(tmp_path))
        check(error, how)
        assert len(str(error)) < 50_000
    assert "has 1000008 bytes, over the limit of" in str(
        worker.error("fail", how="data_large", directory=str(tmp_path))["data"]
    )


def test_random_exceptions_arrive_too(worker: Way) -> None:
    for seed in SEEDS:
        check(worker.error("fail_randomly", seed=seed), str(seed))
        check(worker.error("fail_randomly_async", seed=seed), str(seed))
        if worker.streams:
            for command in ("fail_randomly_stream", "fail_randomly_async_stream"):
                check(worker.stream(command, seed=seed)[1], str(seed))
    assert worker.call("ping")[0]


def test_an_exceptions_own_description_is_used_if_it_works(worker: Way, tmp_path: Path) -> None:
    def error(how: str) -> dict[str, object]:
        return worker.error("fail", how=how, directory=str(tmp_path))

    assert error("api")["type"] == "exceptions.ApiError"
    assert error("api")["message"] == "quota exceeded"
    cause = error("api_cause")["cause"]
    assert isinstance(cause, dict)
    assert (cause["type"], cause["message"]) == ("exceptions.ApiError", "quota exceeded")
    assert error("http")["message"] == "HTTP Error 405: no"
    assert error("lazy")["message"] == "<ValueError.__str__ failed>"
    assert error("surrogate_name")["type"] == "exceptions.Bad\\udce9"
    assert error("unnamed")["type"] == "<unnamed>"
    assert error("notes_odd")["notes"][1:] == ["plain"]  # type: ignore[index]
    assert error("odd_class")["message"] == "odd"
    assert error("code_number")["code"] == "404"
    assert error("odd_command_error")["reason"] == "command_error"
    assert "cannot be sent" in str(error("odd_command_error")["data"])
    assert "first" not in str(error("chain")["message"])


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_panic_in_rust_answers_its_call_and_is_reported(start: Start) -> None:
    worker = start(*ADAPTER)
    client = Client(worker.address())
    assert client.error("fail_randomly", seed=0).type
    for where in ("here", "result"):
        error = client.error("panic", where=where)
        assert error.reason == "internal_error"
        assert "on purpose" in error.message
        assert worker.expect("panicked while it served a call of panic").startswith("<3>")
    assert client.error("panic_async").reason == "internal_error"
    chunks = client.chunks("panic_stream")
    assert len(chunks) == 2
    assert chunks[1].error_detail.reason == "internal_error"
    assert client.result("echo", a=1) == {"a": 1}
    assert client.health().healthy
    client.close()
