"""Commands that fail in all possible ways, and that have typed parameters."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, Literal, Optional, Union

from snakepit_bridge import BuiltinAdapter, CommandError, command


class MissingError(KeyError):
    def __str__(self) -> str:
        return f"no {self.args[0]}"


class OutOfStockError(CommandError):
    pass


class ErrorCommands(BuiltinAdapter):
    @command
    def chained(self) -> None:
        try:
            self._find("x")
        except MissingError as error:
            raise ValueError("cannot go on") from error

    def _find(self, name: str) -> None:
        raise MissingError(name)

    @command
    def silent(self) -> None:
        raise LookupError from KeyError()

    @command
    def in_library(self, text: str) -> Any:
        return json.loads(text)

    @command
    def recursive(self, depth: int = 0) -> None:
        self.recursive(depth + 1)

    @command
    def buy(self, count: int) -> Generator[dict[str, int], None, None]:
        yield {"bought": count}
        self.sell()

    @command
    def sell(self) -> None:
        raise OutOfStockError(
            "out_of_stock", "only 3 are left", data={"left": 3, "image": [b"\xff"]}
        )

    @command
    def bare_code(self) -> None:
        raise CommandError("denied")

    @command
    def typed(
        self,
        *,
        text: str = "",
        count: int = 0,
        ratio: float = 0.0,
        flag: bool = False,
        data: bytes = b"",
        items: list[int] = [],  # noqa: B006 (nobody changes it)
        table: Optional[dict[str, int]] = None,
        either: Union[int, str, None] = None,
        mode: Literal["fast", "slow", 3] = "fast",
        other: Any = 1j,
    ) -> str:
        return repr([text, count, ratio, flag, data, items, table, either, mode, other])
