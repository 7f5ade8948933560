from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from snakepit_bridge import _async


class Loop:
    def run_forever(self) -> None:
        threading.Event().wait()


def test_calls_that_come_first_together_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Loop] = []
    both_in = threading.Barrier(2)

    def make() -> Loop:
        with contextlib.suppress(threading.BrokenBarrierError):
            both_in.wait(0.5)
        made.append(Loop())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make)
    _async._started_loop.cache_clear()
    threads = [threading.Thread(target=_async._loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _async._started_loop.cache_clear()
    assert len(made) == 1
