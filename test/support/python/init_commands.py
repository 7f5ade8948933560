"""Adapters whose __init__ takes arguments."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Optional

from snakepit_bridge import Adapter, command


class Anything(Adapter):
    def __init__(self, **given: Any) -> None:
        self.given = given

    @command
    def given_as(self, name: str) -> dict[str, Any]:
        value = self.given[name]
        return {"value": value, "type": type(value).__name__}

    @command
    def names(self) -> list[str]:
        return sorted(self.given)

    @command
    def seen_from_outside(self) -> dict[str, Any]:
        line = Path("/proc/self/cmdline").read_bytes()
        variables = Path("/proc/self/environ").read_bytes()
        return {"line": line, "variables": variables, "stdin": os.read(0, 10)}

    @command
    def die(self) -> None:
        os._exit(3)


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1


class Sized(Adapter):
    def __init__(self, model: str, size: Optional[Size] = None) -> None:
        self.model = model
        self.size = size

    @command
    def sized(self) -> dict[str, Any]:
        return {"model": self.model, "size": self.size}


class Plain(Adapter):
    @command
    def ping(self) -> str:
        return "pong"
