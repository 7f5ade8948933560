from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Optional, Union

import pytest

from snakepit_bridge import Adapter, BuiltinAdapter, Context, command
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._errors.call_error import CallError


class Zoo(Adapter):
    @command
    def plain(self, a: int, b: int = 0) -> int:
        """Adds two numbers."""
        return a + b

    @command(name="other-name")
    def renamed(self) -> None:
        pass

    @command
    def anything(self, ctx: Context, **rest: Any) -> None:
        pass

    @command
    def named(self, context, size=1):  # type: ignore[no-untyped-def]
        pass

    @command
    def quoted(self, it: snakepit_bridge.Context) -> None:  # type: ignore[name-defined] # noqa: F821
        pass

    @command
    def generator(self, count: Optional[int] = None) -> Generator[Optional[int], None, None]:
        yield count

    @command
    async def coroutine(self) -> None:
        pass

    @command
    async def async_generator(self) -> AsyncGenerator[int, None]:
        yield 1

    def no_command(self) -> None:
        pass


@pytest.fixture
def zoo() -> Registry:
    return Registry(Zoo())


def test_the_decorated_methods_are_the_commands(zoo: Registry) -> None:
    assert list(zoo) == [
        "anything",
        "async_generator",
        "coroutine",
        "generator",
        "named",
        "plain",
        "quoted",
        "other-name",
    ]


def test_a_command_knows_how_to_be_run(zoo: Registry) -> None:
    kinds = {name: (zoo[name].streams, zoo[name].is_async) for name in zoo}
    assert kinds["plain"] == (False, False)
    assert kinds["generator"] == (True, False)
    assert kinds["coroutine"] == (False, True)
    assert kinds["async_generator"] == (True, True)


@pytest.mark.parametrize(
    ("name", "help_text"),
    [
        ("plain", "plain(a: int, b: int = 0)\n\nAdds two numbers."),
        ("generator", "generator(count: Optional[int] = None) -> stream"),
        ("named", "named(size=1)"),
        ("anything", "anything(**rest: Any)"),
    ],
)
def test_help_shows_the_signature_for_callers(zoo: Registry, name: str, help_text: str) -> None:
    assert zoo[name].help == help_text


@pytest.mark.parametrize(
    ("name", "parameter"), [("anything", "ctx"), ("named", "context"), ("quoted", "it")]
)
def test_the_context_is_passed_by_annotation_or_name(
    zoo: Registry, name: str, parameter: str
) -> None:
    context = Context()
    assert zoo[name].bind({}, context) == {parameter: context}


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("plain", {}, "missing a: the command is plain(a: int, b: int = 0)"),
        ("plain", {"a": 1, "c": 2, "d": 3}, "unknown c, d: the command is plain("),
        ("plain", {"x": 2}, "missing a; unknown x: "),
        ("named", {"context": 1}, "unknown context: "),
        ("anything", {"ctx": 1, "free": 2}, "unknown ctx: "),
    ],
)
def test_invalid_arguments_are_named(
    zoo: Registry, name: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(CallError) as caught:
        zoo[name].bind(args, Context())
    assert caught.value.reason == "invalid_args"
    assert message in caught.value.message


def test_an_unknown_command_is_answered_with_similar_names(zoo: Registry) -> None:
    with pytest.raises(CallError) as caught:
        zoo.find("plane", stream=False)
    assert caught.value.reason == "unknown_command"
    assert caught.value.message == (
        "the adapter Zoo has no command 'plane'; did you mean 'plain'? "
        "Snakepit.commands/1 lists all 8 of them"
    )


def test_a_generator_is_not_executed_but_streamed(zoo: Registry) -> None:
    with pytest.raises(CallError, match="execute_stream") as caught:
        zoo.find("generator", stream=False)
    assert caught.value.reason == "invalid_args"
    assert zoo.find("generator", stream=True).streams
    assert not zoo.find("plain", stream=True).streams


def test_subclasses_override_and_remove_commands() -> None:
    class Mine(BuiltinAdapter):
        compute = None  # type: ignore[assignment]

        def echo(self, /, **args: Any) -> dict[str, Any]:
            return {"mine": args}

    registry = Registry(Mine())
    assert "compute" not in registry
    assert registry["echo"].function(a=1) == {"mine": {"a": 1}}


def test_two_commands_with_the_same_name_are_refused() -> None:
    class Twice(Adapter):
        @command(name="same")
        def one(self) -> None: ...

        @command(name="same")
        def two(self) -> None: ...

    with pytest.raises(TypeError, match="two commands of Twice are named 'same'"):
        Registry(Twice())


def test_the_decorator_applies_to_callables() -> None:
    with pytest.raises(TypeError, match="@command decorates a method, not"):
        command(property(lambda _: None))  # type: ignore[call-overload]


def test_bytes_arrive_as_a_view_if_the_command_asks_for_one() -> None:
    class Views(Adapter):
        @command
        def view(self, data: memoryview, rest: Optional[memoryview] = None) -> None: ...

        @command
        def either(self, data: Union[bytes, memoryview]) -> None: ...

    registry = Registry(Views())
    data = b"\xff" * 10
    bound = registry["view"].bind({"data": data, "rest": "text"}, None)
    assert type(bound["data"]) is type(bound["rest"]) is memoryview
    assert bound["data"].obj is data
    assert bytes(bound["rest"]) == b"text"
    assert registry["view"].bind({"data": b"", "rest": None}, None)["rest"] is None
    assert registry["either"].bind({"data": data}, None) == {"data": data}
    with pytest.raises(CallError, match="expected memoryview, got int 1"):
        registry["view"].bind({"data": 1}, None)
