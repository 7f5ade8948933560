"""Containers that change while they are sent."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from typing import Any

from snakepit_bridge import BuiltinAdapter, CommandError, command, register_encoder


class Item:
    """Its encoder changes the container of the value, each time that it runs."""

    def __init__(self, *owners: Any) -> None:
        self.owners = owners


@register_encoder(Item)
def encode_item(item: Item) -> str:
    for owner in item.owners:
        if isinstance(owner, (dict, collections.UserDict)):
            owner[len(owner)] = 1
        elif isinstance(owner, set):
            owner.add(len(owner))
        else:
            owner.append(1)
    return "item"


class Wide(Mapping[str, Any]):
    """A mapping over a dict, with methods of its own."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Restless(Mapping[str, Any]):
    """A mapping that changes whenever it is read."""

    def __getitem__(self, key: str) -> Any:
        return 1

    def __iter__(self) -> Iterator[str]:
        data = {"a": 1}
        for key in data:
            yield key
            data["b"] = 2

    def __len__(self) -> int:
        return 1


@dataclasses.dataclass
class Holder:
    seen: dict[str, Any]


KINDS: dict[str, Any] = {
    "dict": dict,
    "ordered": collections.OrderedDict,
    "default": lambda items: collections.defaultdict(list, items),
    "user": collections.UserDict,
    "wide": lambda items: Wide(dict(items)),
}


def filled(kind: str) -> Any:
    """A container with an item in its middle that changes the container."""
    item = Item()
    owner = KINDS[kind]({"a": 1, "item": item, "c": [item], "d": {"item": item}})
    item.owners = (owner.data if kind == "wide" else owner,)
    return owner


class Live(BuiltinAdapter):
    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        """Like a table of statistics that another thread fills."""
        number = 0
        while True:
            self.seen[f"host-{number % 3000}"] = {number, 1.5}
            number += 1
            if number % 3000 == 0:
                self.seen.clear()
            if number % 50 == 0:
                self._stopped.wait(0.0001)

    @command
    def own(self, kind: str) -> Any:
        return filled(kind)

    @command
    def own_nested(self, kind: str) -> Any:
        return {"holder": Holder(filled(kind)), "list": [filled(kind)]}

    @command
    async def own_async(self, kind: str) -> Any:
        return filled(kind)

    @command
    def own_stream(self, kind: str) -> Generator[Any, None, Any]:
        for _ in range(5):
            yield filled(kind)
        return filled(kind)

    @command
    async def own_async_stream(self, kind: str) -> AsyncGenerator[Any, None]:
        for _ in range(5):
            yield filled(kind)

    @command
    def own_error(self, kind: str) -> None:
        raise CommandError("full", data=filled(kind))

    @command
    def restless(self) -> Any:
        return {"data": Restless()}

    @command
    def other(self) -> Any:
        return self.seen

    @command
    def other_nested(self) -> Any:
        return {"seen": self.seen, "keys": list(self.seen), "values": self.seen.values()}

    @command
    def other_stream(self) -> Generator[Any, None, None]:
        for _ in range(10):
            yield self.seen
