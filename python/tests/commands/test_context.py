from __future__ import annotations

import threading
import time

import pytest
from client import PATIENCE

from snakepit_bridge import Context


def cancel(context: Context) -> None:
    context._cancel()


def test_remaining_counts_down_to_zero() -> None:
    assert Context().remaining() is None
    assert Context(deadline=time.monotonic() - 5).remaining() == 0
    deadline = time.monotonic() + 60
    remaining = Context(deadline=deadline).remaining()
    assert remaining is not None
    assert deadline - time.monotonic() <= remaining <= 60


def test_callbacks_run_once_and_at_once_after_a_cancellation() -> None:
    context, calls = Context(), []
    context.on_cancel(lambda: calls.append("before"))
    cancel(context)
    cancel(context)
    context.on_cancel(lambda: calls.append("after"))
    assert context.cancelled
    assert calls == ["before", "after"]


def test_a_failing_callback_does_not_prevent_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context, calls = Context(), []
    context.on_cancel(lambda: 1 / 0)
    context.on_cancel(lambda: calls.append("ran"))
    cancel(context)
    assert calls == ["ran"]
    assert "ZeroDivisionError" in caplog.text


def test_waiting_ends_with_the_cancellation() -> None:
    context = Context()
    assert not context.wait_cancelled(0)
    thread = threading.Thread(target=cancel, args=(context,))
    thread.start()
    assert context.wait_cancelled(PATIENCE)
    assert context.wait_cancelled()
    thread.join()


def test_repr_shows_the_call() -> None:
    assert repr(Context(request_id="r", session_id="s")) == (
        "<Context request_id='r' session_id='s' active>"
    )


def test_the_slot_is_the_worker_s_place_in_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_WORKER_SLOT", "3")
    assert Context().worker_slot == 3
    monkeypatch.delenv("SNAKEPIT_WORKER_SLOT")
    assert Context().worker_slot is None
