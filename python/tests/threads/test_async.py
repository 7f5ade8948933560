from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from snakepit_bridge._threads import loop_thread


def test_the_first_concurrent_calls_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.AbstractEventLoop] = []
    new_event_loop = asyncio.new_event_loop
    both_in = threading.Barrier(2)

    def make() -> asyncio.AbstractEventLoop:
        with contextlib.suppress(threading.BrokenBarrierError):
            both_in.wait(0.5)
        made.append(new_event_loop())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make)
    loop_thread._started.cache_clear()
    threads = [threading.Thread(target=loop_thread.shared) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loop_thread.end()
    loop_thread._started.cache_clear()
    assert len(made) == 1
