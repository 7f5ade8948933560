"""Classes that cannot serve."""

from __future__ import annotations

from snakepit_bridge import Adapter, command


class NotAnAdapter:
    pass


class Failing(Adapter):
    def __init__(self) -> None:
        raise OSError("the model is gone")


class Empty(Adapter):
    pass


class PositionalOnly(Adapter):
    @command
    def take(self, value: int, /) -> int:
        return value
