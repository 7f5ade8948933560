"""Commands whose parameters are annotated."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NewType, Optional, TypedDict, Union
from uuid import UUID

import pydantic

from snakepit_bridge import Adapter, command


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Address:
    street: str
    zip_code: Optional[str] = None


@dataclass
class User:
    name: str
    age: int
    address: Optional[Address] = None
    friends: list[User] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.age < 0:
            raise ValueError("nobody is that young")


class Movie(TypedDict, total=False):
    title: str
    year: int


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Order(pydantic.BaseModel):
    item: str
    count: int = pydantic.Field(gt=0)
    due: Optional[dt.date] = None


UserId = NewType("UserId", int)
Positive = Annotated[int, pydantic.Field(gt=0)]


def told(value: object) -> str:
    return f"{type(value).__name__} {value!r}"


class AnnotatedCommands(Adapter):
    @command
    def user(self, user: User) -> str:
        return told(user)

    @command
    def orders(self, orders: list[Order], by_name: Optional[dict[str, Order]] = None) -> str:
        return f"{orders!r} {by_name!r}"

    @command
    def scalars(
        self,
        *,
        color: Color = Color.RED,
        moment: Optional[dt.datetime] = None,
        day: Optional[dt.date] = None,
        time: Optional[dt.time] = None,
        duration: Optional[dt.timedelta] = None,
        price: Optional[Decimal] = None,
        uuid: Optional[UUID] = None,
        path: Optional[Path] = None,
        user_id: Optional[UserId] = None,
        positive: Positive = 1,
        url: Optional[pydantic.HttpUrl] = None,
    ) -> dict[str, str]:
        given = dict(locals())
        del given["self"]
        return {name: told(value) for name, value in given.items() if value is not None}

    @command
    def containers(
        self,
        *,
        pair: Optional[tuple[int, str]] = None,
        numbers: Optional[tuple[int, ...]] = None,
        tags: Optional[set[str]] = None,
        by_number: Optional[dict[int, Color]] = None,
        movie: Optional[Movie] = None,
        point: Optional[Point] = None,
        either: Union[User, Movie, None] = None,
        binaries: Optional[list[bytes]] = None,
    ) -> dict[str, str]:
        given = dict(locals())
        del given["self"]
        return {name: told(value) for name, value in given.items() if value is not None}

    @command
    def rest(self, **points: Point) -> dict[str, str]:
        return {name: told(value) for name, value in points.items()}

    @command
    async def user_async(self, user: User) -> str:
        return told(user)

    @command
    def user_stream(self, user: User) -> Generator[dict[str, str], None, None]:
        yield {"user": told(user)}

    @command
    async def user_async_stream(self, user: User) -> AsyncGenerator[dict[str, str], None]:
        yield {"user": told(user)}

    @command
    def anything(self, value: Any, other=None) -> str:  # type: ignore[no-untyped-def]
        return f"{told(value)} {told(other)}"
