from __future__ import annotations

from snakepit_bridge._process.memory import resident_bytes


def test_memory_in_use_is_counted() -> None:
    before = resident_bytes()
    used = b"x" * (64 * 1024 * 1024)
    assert before > 0
    assert resident_bytes() - before > len(used) // 2
