"""Commands by the hundred, and maps of any number of keys in results, chunks and errors."""

from __future__ import annotations

from collections.abc import Iterator

from snakepit_bridge import Adapter, CommandError, command


class Wide(Adapter):
    """Maps of many keys: in an error's data, in a result, in a chunk."""

    @command
    def fail_wide(self, keys: int) -> None:
        raise CommandError("wide", "it is wide", data={"inner": wide(keys), "list": [wide(keys)]})

    @command
    def wide(self, keys: int) -> dict[str, object]:
        return {**wide(keys), "inner": wide(keys)}

    @command
    def wide_chunks(self, keys: int) -> Iterator[dict[str, object]]:
        yield {**wide(keys), "inner": wide(keys)}
        self.fail_wide(keys)


def wide(keys: int) -> dict[str, int]:
    return {f"key{number}": number for number in range(keys)}


def _make(number: int) -> object:
    def run(_self: object) -> dict[str, int]:
        return {"number": number}

    run.__name__ = f"command{number}"
    run.__doc__ = f"Returns {number}."
    return command(run)


Many = type("Many", (Wide,), {f"command{number}": _make(number) for number in range(200)})
