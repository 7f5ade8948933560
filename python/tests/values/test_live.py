"""Dicts and other containers that change while they are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from client import Way

KINDS = ["dict", "ordered", "default", "user", "wide"]


@pytest.fixture(scope="module")
def worker(shared_way: Callable[..., Way]) -> Way:
    return shared_way("--adapter", "live:Live")


def is_filled(value: Any) -> bool:
    return bool(value["a"] == 1 and value["item"] == "item" and value["c"] == ["item"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_may_change_the_container_of_its_value(worker: Way, kind: str) -> None:
    for command in ("own", "own_async"):
        result, error = worker.call(command, kind=kind)
        assert result is not None, error
        assert is_filled(result.get("result", result))
    result, error = worker.call("own_nested", kind=kind)
    assert result is not None, error
    assert is_filled(result["list"][0])
    assert is_filled(result["holder"]["seen"])
    error = worker.error("own_error", kind=kind)
    assert error["code"] == "full"
    assert "cannot be sent" not in str(error["data"])
    if worker.streams:
        for command, count in (("own_stream", 6), ("own_async_stream", 5)):
            chunks, error = worker.stream(command, kind=kind)
            assert not error
            assert len(chunks) == count
            assert all(is_filled(chunk.get("result", chunk)) for chunk in chunks)


def test_another_thread_may_change_a_value_while_it_is_sent(worker: Way) -> None:
    for command in ("other", "other_nested"):
        for _ in range(8):
            result, error = worker.call(command)
            assert result is not None, error
    if worker.streams:
        for _ in range(2):
            assert len(worker.stream("other_stream")[0]) == 10


def test_a_mapping_that_always_changes_is_refused(worker: Way) -> None:
    error = worker.error("restless")
    assert error["reason"] == "invalid_result"
    assert "result.data changes while it is read" in error["message"]
