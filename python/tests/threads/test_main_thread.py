from __future__ import annotations

import threading
from typing import Optional

import pytest
from client import PATIENCE

from snakepit_bridge._threads.main_thread import MainThread, _Job


def test_a_function_ends_and_others_run_although_two_handlers_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What handlers of signals raise at these places.
    raised: list[BaseException] = [TimeoutError("first"), TimeoutError("second")]
    end = _Job.end

    def interrupted_end(job: _Job, error: Optional[BaseException]) -> None:
        if raised:
            raise raised.pop(0)
        end(job, error)

    monkeypatch.setattr(_Job, "end", interrupted_end)
    main = MainThread()
    outcomes: list[object] = []

    def call() -> None:
        with pytest.raises(TimeoutError, match="second"):
            main.call(lambda: outcomes.append("ran"))
        outcomes.append(main.call(lambda: "another"))

    threads = [threading.Thread(target=each, daemon=True) for each in (main.serve, call)]
    for thread in threads:
        thread.start()
    threads[1].join(PATIENCE)
    main.close()
    threads[0].join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert outcomes == ["ran", "another"]
