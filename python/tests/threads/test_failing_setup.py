"""What precedes a command may fail as well: no call waits for ever, and no place is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from client import PATIENCE, Client
from conftest import Start

pytestmark = pytest.mark.parametrize("server", ["native"], indirect=True)


def test_a_thread_that_could_not_be_started_is_started_for_the_next_call(start: Start) -> None:
    worker = start("--adapter", "failing_setup:FailingSetup", "--max-concurrency", "2")
    client = Client(worker.address())
    assert client.result("plain") == {"result": 1}
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(client.result, "meet") for _ in range(2)]
        met = [call.result(PATIENCE)["result"] for call in calls]
    assert sorted(met) == [0, 1]
    client.close()
    assert worker.stop() == 0
    assert "closed" in list(worker.lines())


def test_a_call_whose_trace_cannot_be_set_up_fails_and_frees_its_place(start: Start) -> None:
    worker = start("--adapter", "failing_setup:FailingSetup", "--max-concurrency", "1")
    client = Client(worker.address())
    assert "no entry points" in client.error("number").message
    assert client.result("number") == {"result": 7}
    client.close()
