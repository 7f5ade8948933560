from __future__ import annotations

import collections
import datetime as dt
import enum
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Optional, TypeVar, Union

import annotated_types
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pydantic.v1
import pytest
from client import ROOT
from numpy import typing as npt
from typing_extensions import (
    NotRequired,
    ParamSpec,
    TypeAliasType,
    TypedDict,
    TypeVarTuple,
    Unpack,
)

from snakepit_bridge import Adapter, Context, Tensor, command
from snakepit_bridge._arguments.parameters import Parameters
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._errors.call_error import ArgumentsError

if TYPE_CHECKING:
    from collections.abc import Awaitable

Item = TypeVar("Item")


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)
    parent: Tree = None  # type: ignore[assignment]
    size: InitVar[int] = 0
    made: dt.date = field(default=dt.date(2026, 1, 1), init=False)


@dataclass
class Box(Generic[Item]):
    item: Item


@dataclass
class Branch(Generic[Item]):
    item: Item
    children: list[Branch[Item]] = field(default_factory=list)
    boxes: tuple[Box[Item], ...] = ()


@dataclass
class Days(Box[dt.date], Generic[Item]):
    other: Optional[Item] = None


class Entry(TypedDict, Generic[Item]):
    item: Item


class DayEntry(Entry[dt.date]):
    note: str


Pair = TypeAliasType("Pair", tuple[Item, Item], type_params=(Item,))
Nested = TypeAliasType("Nested", Union[Item, "dict[str, Nested[Item]]"], type_params=(Item,))


class Options(TypedDict):
    level: Level
    note: NotRequired[str]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


class Old(pydantic.v1.BaseModel):
    size: int


class Kept(Adapter):
    limits = dt

    @command
    def plain(self, number: int, ratio: float = 0.0, names: Optional[list[str]] = None) -> None: ...

    @command
    def built(
        self,
        *,
        tree: Tree = None,  # type: ignore[assignment]
        box: Optional[Box[int]] = None,
        pet: Optional[Union[Cat, Dog]] = None,
        old: Optional[Old] = None,
        level: Level = Level.LOW,
        literal: Literal["a", 2, Level.HIGH] = "a",
        small: Annotated[int, annotated_types.Lt(10), "no metadata of pydantic"] = 1,
        names: Sequence[str] = (),
        scores: Optional[Mapping[str, float]] = None,
        queue: Optional[collections.deque[int]] = None,
        array: Optional[npt.NDArray[np.float32]] = None,
        tensor: Optional[Tensor] = None,
        frame: Optional[pd.DataFrame] = None,
        columns: Optional[pl.DataFrame] = None,
        table: Optional[pa.Table] = None,
        day: Optional[limits.date] = None,
        price: Union[Decimal, str, None] = None,
    ) -> Awaitable[None]:
        raise NotImplementedError

    @command
    def named(self, **options: Unpack[Options]) -> None: ...

    @command
    def numbers(self, context: Context, **numbers: int) -> None: ...


@pytest.fixture(scope="module")
def kept() -> Registry:
    return Registry(Kept())


def built(registry: Registry, name: str, value: Any) -> Any:
    return registry["built"].bind({name: value}, None)[name]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "tree",
            {"name": "a", "children": [{"name": "b", "parent": {"name": "c"}}]},
            Tree("a", [Tree("b", parent=Tree("c"))]),
        ),
        ("tree", {"name": "a", "size": 3}, Tree("a")),
        ("box", {"item": 1}, Box(1)),
        ("pet", {"kind": "dog"}, Dog(kind="dog")),
        ("pet", {"kind": "cat", "lives": "3"}, Cat(kind="cat", lives=3)),
        ("level", 2, Level.HIGH),
        ("literal", 2, Level.HIGH),
        ("small", 3, 3),
        ("names", ["a"], ["a"]),
        ("scores", {"a": 1, "b": 0.5}, {"a": 1, "b": 0.5}),
        ("queue", [1, 2], collections.deque([1, 2])),
        ("day", "2026-01-31", dt.date(2026, 1, 31)),
        ("price", "1.10", "1.10"),
        ("price", 0.1, Decimal("0.1")),
    ],
)
def test_an_argument_is_converted_to_its_annotation(
    kept: Registry, name: str, value: Any, expected: Any
) -> None:
    found = built(kept, name, value)
    assert found == expected
    assert type(found) is type(expected)
    # A value of the annotated type is passed unchanged.
    assert built(kept, name, found) == expected


def test_a_pydantic_1_model_is_built(kept: Registry) -> None:
    assert built(kept, "old", {"size": 1}) == Old(size=1)
    with pytest.raises(ArgumentsError, match=r"old\.size: value is not a valid integer"):
        built(kept, "old", {"size": "x"})


def test_arrays_pass_unchanged(kept: Registry) -> None:
    array = np.zeros(2, "float32")
    assert built(kept, "array", array) is array
    with pytest.raises(ArgumentsError, match="got an array of dtype float64"):
        built(kept, "array", np.zeros(2))
    tensor = Tensor("uint8", (1,), b"\x00")
    assert built(kept, "tensor", tensor) is tensor


def test_a_frame_is_built_from_a_table_or_a_map_of_lists(kept: Registry) -> None:
    table = pa.table({"n": [1, None], "t": ["a", "b"]})
    assert built(kept, "table", table) is table
    frame = built(kept, "frame", table)
    assert frame.equals(table.to_pandas())
    assert built(kept, "frame", frame) is frame
    assert built(kept, "frame", {"n": [1, 2]}).equals(pd.DataFrame({"n": [1, 2]}))
    columns = built(kept, "columns", table)
    assert columns.equals(pl.DataFrame({"n": [1, None], "t": ["a", "b"]}))
    assert built(kept, "columns", {"n": [1, 2]}).equals(pl.DataFrame({"n": [1, 2]}))
    with pytest.raises(
        ArgumentsError, match=r"frame \(cannot be converted to .*DataFrame: .*same length"
    ):
        built(kept, "frame", {"n": [1], "t": []})
    for name in ("frame", "columns", "table"):
        with pytest.raises(ArgumentsError, match=rf"{name} \(expected .*, got list"):
            built(kept, name, [1])


@pytest.mark.parametrize(
    ("name", "value", "path", "message"),
    [
        ("tree", {"children": []}, ["name"], "missing"),
        ("tree", {"name": "a", "made": "2026-01-01"}, ["made"], "unknown: the fields are name, "),
        ("tree", {"name": "a", "size": "3"}, ["size"], "expected int, got str '3'"),
        ("tree", [], [], "expected Tree, got list []"),
        ("box", {"item": "1"}, ["item"], "expected int, got str '1'"),
        ("pet", {"kind": "cat", "lives": "x"}, ["cat", "lives"], "Input should be a valid integer"),
        ("level", True, [], "expected Level, one of 1, 2, got bool True"),
        ("level", 1.0, [], "expected Level, one of 1, 2, got float 1.0"),
        ("level", "LOW", [], "expected Level, one of 1, 2, got str 'LOW'"),
        ("small", 10, [], "Input should be less than 10"),
        ("small", "1", [], "expected "),
        ("names", "text", [], "expected Sequence[str], got str 'text'"),
        ("scores", {"a": "x"}, ["a"], "expected float, got str 'x'"),
        ("queue", [1, None], [1], "expected int, got NoneType None"),
        ("day", "2026-13-01", [], "'2026-13-01' is not a valid datetime.date: "),
    ],
)
def test_an_argument_that_does_not_fit_has_its_path(
    kept: Registry, name: str, value: Any, path: list[Any], message: str
) -> None:
    with pytest.raises(ArgumentsError) as caught:
        built(kept, name, value)
    fault = caught.value.faults[0]
    if name != "pet":
        assert list(fault.path) == [name, *path]
    assert fault.message.startswith(message)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Branch[Decimal], {"item": "1", "children": [{"item": "2", "children": [{"item": "3"}]}]},
         Branch(Decimal(1), [Branch(Decimal(2), [Branch(Decimal(3))])])),
        (Branch[Decimal], {"item": "1", "boxes": [{"item": "2"}]},
         Branch(Decimal(1), boxes=(Box(Decimal(2)),))),
        (Days[Decimal], {"item": "2026-01-31", "other": "1"},
         Days(dt.date(2026, 1, 31), Decimal(1))),
        (Box["dt.date"], {"item": "2026-01-31"}, Box(dt.date(2026, 1, 31))),
        (DayEntry, {"item": "2026-01-31", "note": "a"},
         {"item": dt.date(2026, 1, 31), "note": "a"}),
        (Pair[Decimal], ["1", "2"], (Decimal(1), Decimal(2))),
        (Nested[Decimal], {"a": {"b": "1"}}, {"a": {"b": Decimal(1)}}),
        (list[Annotated[Branch[Annotated[Decimal, []]], []]],
         [{"item": "1", "children": [{"item": "2"}]}],
         [Branch(Decimal(1), [Branch(Decimal(2))])]),
    ],
)  # fmt: skip
def test_the_fields_of_a_generic_class_have_its_types(
    annotation: object, value: Any, expected: Any
) -> None:
    assert Registry(_adapter(annotation))["use"].bind({"it": value}, None)["it"] == expected


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has this syntax")
@pytest.mark.parametrize("first", ["", "from __future__ import annotations\n"])
def test_the_type_parameters_of_python_3_12_are_known(first: str) -> None:
    source = """
        from dataclasses import dataclass
        from datetime import date
        from typing import TypedDict
        from snakepit_bridge import Adapter, command

        type Nested[T] = T | dict[str, Nested[T]]

        @dataclass
        class Box[T]:
            item: T
            other: "Box[T] | None" = None

        @dataclass
        class Days(Box[date]):
            note: str = ""

        class First[T](TypedDict):
            first: "T"

        class Second[T](First[list[T]]):
            second: "T"

        class Boxes(Adapter):
            @command
            def use[T: date](self, it: Days, box: Box[date], nested: Nested[date], day: T): ...

            @command
            def typed(self, it: Second[date]): ...
    """
    module = types.ModuleType("python_3_12")
    sys.modules[module.__name__] = module
    try:
        exec(first + textwrap.dedent(source), vars(module))
        day, text = dt.date(2026, 1, 31), "2026-01-31"
        args = {
            "it": {"item": text},
            "box": {"item": text, "other": {"item": text}},
            "nested": {"a": {"b": text}},
            "day": text,
        }
        assert Registry(module.Boxes())["use"].bind(args, None) == {
            "it": module.Days(day),
            "box": module.Box(day, module.Box(day)),
            "nested": {"a": {"b": day}},
            "day": day,
        }
        typed = Registry(module.Boxes())["typed"].bind(
            {"it": {"first": [text], "second": text}}, None
        )
        assert typed == {"it": {"first": [day], "second": day}}
    finally:
        del sys.modules[module.__name__]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 evaluates annotations later")
def test_names_that_only_type_checkers_import_do_no_harm_where_nothing_is_built() -> None:
    source = """
        from dataclasses import dataclass
        from snakepit_bridge import Adapter, command

        @dataclass
        class Box:
            item: Missing

        class Good(Adapter):
            def start(self) -> Missing: ...

            @command
            def use(self, it: int, context: Context) -> Missing: ...

        class Bad(Adapter):
            @command
            def use(self, it: list[Missing]) -> None: ...

        class Worse(Adapter):
            @command
            def use(self, it: Box) -> None: ...

        class Worst(Adapter):
            @command
            def use(self, it: int | Missing) -> None: ...
    """
    names: dict[str, Any] = {"__name__": __name__}
    exec(textwrap.dedent(source), names)
    assert Registry(names["Good"]())["use"].bind({"it": 1}, 2) == {"it": 1, "context": 2}
    for name, shown in (
        ("Bad", r"list\[Missing\]"),
        ("Worse", "Missing"),
        ("Worst", r"int \| Missing"),
    ):
        with pytest.raises(
            TypeError, match=rf"with {shown}, which .*name 'Missing' is not defined"
        ):
            Registry(names[name]())


@dataclass
class Quoted(Generic[Item]):
    item: Optional[Item]
    others: list[Quoted[Item]] = field(default_factory=list)


def test_text_in_a_generic_class_means_what_its_arguments_say() -> None:
    bind = Registry(_adapter(tuple[Quoted[dt.date], Quoted[Decimal], Quoted]))["use"].bind  # type: ignore[type-arg]
    sent = [
        {"item": "2026-01-31", "others": [{"item": "2026-01-31"}]},
        {"item": "1", "others": [{"item": "1"}]},
        {"item": "1", "others": [{"item": "1"}]},
    ]
    day = dt.date(2026, 1, 31)
    assert bind({"it": sent}, None)["it"] == (
        Quoted(day, [Quoted(day)]),
        Quoted(Decimal(1), [Quoted(Decimal(1))]),
        Quoted("1", [Quoted("1")]),
    )


def test_many_classes_may_contain_each_other() -> None:
    names = [f"C{number}" for number in range(40)]
    source = "".join(
        f"@dataclass\nclass {name}:\n"
        + "".join(f"    {other.lower()}: Optional[{other}] = None\n" for other in names)
        for name in names
    )
    made: dict[str, Any] = {"__name__": __name__, "dataclass": dataclass, "Optional": Optional}
    module = types.ModuleType("many_classes")
    sys.modules[module.__name__] = module
    vars(module).update(made, __name__=module.__name__)
    try:
        exec("from __future__ import annotations\n" + source, vars(module))
        bound = Registry(_adapter(module.C0))["use"].bind({"it": {"c7": {"c3": {}}}}, None)["it"]
        assert bound == module.C0(c7=module.C7(c3=module.C3()))
    finally:
        del sys.modules[module.__name__]


@dataclass
class Growing(Generic[Item]):
    item: Item
    more: Optional[Growing[list[Item]]] = None


@dataclass
class Doubling(Generic[Item]):
    item: Item
    more: Optional[Doubling[tuple[Item, Item]]] = None


class GrowingFields(TypedDict):
    growing: NotRequired[Growing[int]]


def test_keywords_that_contain_themselves_with_ever_new_types_are_refused() -> None:
    class Endless(Adapter):
        @command
        def use(self, **options: Unpack[GrowingFields]) -> None: ...

    with pytest.raises(TypeError, match="contains itself with ever new types"):
        Registry(Endless())


Types = TypeVarTuple("Types")
Given = ParamSpec("Given")


@dataclass
class Mixed(Generic[Given, Item]):
    item: Item
    init: InitVar[Optional[Item]] = None


@dataclass
class Many(Generic[Item, Unpack[Types]]):
    item: Item


def test_variables_of_other_kinds_leave_types_as_they_are() -> None:
    sent = [
        {"item": "2026-01-31", "init": "2026-01-31"},
        {"item": "1", "init": "1"},
        {"item": "1"},
        {"item": "1"},
    ]
    annotation = tuple[
        Mixed[[int], dt.date],
        Mixed[..., Decimal],
        Many[Decimal, int, str],
        Many[Decimal],
    ]
    assert Registry(_adapter(annotation))["use"].bind({"it": sent}, None)["it"] == (
        Mixed(dt.date(2026, 1, 31)),
        Mixed(Decimal(1)),
        Many(Decimal(1)),
        Many(Decimal(1)),
    )


def test_choices_are_tried_in_their_order() -> None:
    first, second = list[Union[Decimal, dt.timedelta]], list[Union[dt.timedelta, Decimal]]
    bind = Registry(_adapter(tuple.__class_getitem__((first, second))))["use"].bind
    assert bind({"it": [[1], [1]]}, None)["it"] == ([Decimal(1)], [dt.timedelta(seconds=1)])


@pytest.mark.parametrize(
    ("key", "sent", "expected"),
    [
        (int, {"1": 0, "-2": 1}, {1: 0, -2: 1}),
        (float, {"1.5": 0, "2": 1}, {1.5: 0, 2: 1}),
        (bool, {"true": 0, "false": 1}, {True: 0, False: 1}),
        (Union[int, float], {"1": 0, "1.5": 1}, {1: 0, 1.5: 1}),
        (Optional[int], {"1": 0}, {1: 0}),
        (Level, {"1": 0, "2": 1}, {Level.LOW: 0, Level.HIGH: 1}),
        (Literal["a", 1], {"a": 0, "1": 1}, {"a": 0, 1: 1}),
        (Annotated[int, annotated_types.Lt(10)], {"1": 0}, {1: 0}),
        (dt.date, {"2026-01-31": 0}, {dt.date(2026, 1, 31): 0}),
        (dt.timedelta, {"90": 0, "1.5": 1},
         {dt.timedelta(seconds=90): 0, dt.timedelta(seconds=1.5): 1}),
        (Decimal, {"1.10": 0}, {Decimal("1.10"): 0}),
        (Union[dt.date, int], {"2026-01-31": 0, "3": 1}, {dt.date(2026, 1, 31): 0, 3: 1}),
        (Union[Decimal, int], {"1": 0, "1.5": 1}, {1: 0, Decimal("1.5"): 1}),
        (Union[bytes, int], {"1": 0, "a": 1}, {1: 0, b"a": 1}),
    ],
)  # fmt: skip
def test_the_keys_of_a_map_are_converted(key: Any, sent: Any, expected: Any) -> None:
    bound = Registry(_adapter(dict[key, int]))["use"].bind({"it": sent}, None)["it"]
    assert bound == expected
    assert list(map(type, bound)) == list(map(type, expected))
    # Keys of the annotated type are passed unchanged.
    assert Registry(_adapter(dict[key, int]))["use"].bind({"it": bound}, None)["it"] == expected


@pytest.mark.parametrize(
    ("key", "sent", "message"),
    [
        (int, " 1", "1 is given more than once"),
        (int, "1.5", "expected int, got str '1.5'"),
        (int, "true", "expected int, got str 'true'"),
        (bool, "1", "expected bool, got str '1'"),
        (Level, "3", "Level, one of 1, 2, got str '3'"),
        (Annotated[int, annotated_types.Lt(10)], "10", "Input should be less than 10"),
    ],
)
def test_a_key_that_does_not_fit_has_its_path(key: Any, sent: str, message: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        Registry(_adapter(dict[key, int]))["use"].bind({"it": {"1": 0, sent: 0}}, None)
    (fault,) = caught.value.faults
    assert fault.path == ("it", sent)
    assert fault.message.startswith("the key: ")
    assert fault.message.endswith(message)


def test_times_are_read_as_elixir_writes_them() -> None:
    class Moments(Adapter):
        @command
        def at(self, moment: dt.datetime, time: Optional[dt.time] = None) -> None: ...

    bind = Registry(Moments())["at"].bind
    utc = dt.timezone.utc
    for text, moment in {
        "2026-01-31T12:30:00Z": dt.datetime(2026, 1, 31, 12, 30, tzinfo=utc),
        "2026-01-31T12:30:00.5Z": dt.datetime(2026, 1, 31, 12, 30, 0, 500_000, tzinfo=utc),
        "2026-01-31T12:30:00.123456": dt.datetime(2026, 1, 31, 12, 30, 0, 123_456),  # noqa: DTZ001
    }.items():
        assert bind({"moment": text}, None)["moment"] == moment
    assert bind({"moment": text, "time": "12:30:00.25"}, None)["time"] == dt.time(
        12, 30, 0, 250_000
    )


def test_plain_types_stay_strict(kept: Registry) -> None:
    plain = kept["plain"]
    args = {"number": 1, "ratio": 2, "names": ["a"]}
    assert plain.bind(args, None)["names"] is args["names"]
    for wrong in ({"number": "1"}, {"number": True}, {"number": 1, "names": ["a", 1]}):
        with pytest.raises(ArgumentsError):
            plain.bind(dict(wrong), None)


def test_guessed_values_are_built_and_not_checked(kept: Registry) -> None:
    assert kept["plain"].bind({"number": "1"}, None, checked=False) == {"number": "1"}
    args = {"tree": {"name": "a"}, "day": "2026-01-31"}
    assert kept["built"].bind(args, None, checked=False) == {
        "tree": Tree("a"),
        "day": dt.date(2026, 1, 31),
    }


def test_additional_keywords_are_checked(kept: Registry) -> None:
    assert kept["numbers"].bind({"a": 1}, None) == {"a": 1, "context": None}
    with pytest.raises(ArgumentsError, match=r"a \(expected int, got str '1'\)"):
        kept["numbers"].bind({"a": "1"}, None)
    assert kept["named"].bind({"level": 2}, None) == {"level": Level.HIGH}
    with pytest.raises(ArgumentsError, match="missing level; unknown nte"):
        kept["named"].bind({"nte": "x"}, None)


def test_init_keywords_are_built_in_the_same_way() -> None:
    class Trained:
        def __init__(self, tree: Tree, rate: float = 0.1) -> None:
            self.tree, self.rate = tree, rate

    parameters = Parameters(Trained, "Trained", what="adapter")
    assert parameters.bind({"tree": {"name": "a"}}, None) == {"tree": Tree("a")}
    with pytest.raises(ArgumentsError) as caught:
        parameters.bind({"rate": "x", "tre": 1}, None)
    assert caught.value.message == (
        "missing tree; unknown tre (did you mean tree?); of the wrong type rate "
        "(expected float, got str 'x'): the adapter is Trained(tree: Tree, rate: float = 0.1)"
    )


def test_only_some_of_many_faults_are_shown(kept: Registry) -> None:
    with pytest.raises(ArgumentsError) as caught:
        built(kept, "queue", ["x"] * 100)
    assert caught.value.message.endswith("\n  and 80 more")
    assert len(caught.value.message.splitlines()) == 22


def test_an_exception_in_a_types_own_code_propagates() -> None:
    @dataclass
    class Broken:
        size: int

        def __post_init__(self) -> None:
            raise RuntimeError("broken")

    class Breaking(Adapter):
        @command
        def use(self, it: Any) -> None: ...

    Breaking.use.__annotations__["it"] = Broken
    with pytest.raises(RuntimeError, match="broken"):
        Registry(Breaking())["use"].bind({"it": {"size": 1}}, None)


def _adapter(annotation: object, default: object = ...) -> Adapter:
    def use(self: Any, it: Any = default) -> None: ...

    use.__annotations__["it"] = annotation
    use.__defaults__ = None if default is ... else (default,)
    cls: type[Adapter] = type("Using", (Adapter,), {"use": command(use)})
    return cls()


@dataclass
class Holder:
    calls: Callable[[], int]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Callable[[int], int], "to which no argument can be converted: annotate it with"),
        (type[int], "to which no argument can be converted"),
        (np.float32, "to which no argument can be converted"),
        (Optional[Adapter], "to which no argument can be converted"),
        ([int], "to which no argument can be converted"),
        ({"type": "int"}, "to which no argument can be converted"),
        ("Awaitable", "which cannot be resolved (NameError: name 'Awaitable' is not defined)"),
        (list["Missing"], "which cannot be resolved"),  # type: ignore[name-defined] # noqa: F821
        (Growing[int], "which contains itself with ever new types"),
        (Doubling[int], "which contains itself with ever new types"),
        (list[Annotated[Branch[Callable[[], int]], []]], "no argument can be converted"),
        (Holder, "whose field Holder.calls is annotated with Callable[[], int], to which no"),
    ],
)
def test_an_unsupported_annotation_is_refused(annotation: object, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        Registry(_adapter(annotation))
    text = str(caught.value)
    assert text.startswith("command 'use': the parameter 'it' is annotated with ")
    assert message in text


def test_a_pydantic_field_is_refused_as_a_default() -> None:
    with pytest.raises(TypeError, match=r"write it: Annotated\[int, Field\(\.\.\.\)\]"):
        Registry(_adapter(int, pydantic.Field(gt=0)))


@pytest.mark.parametrize("annotation", [Any, object, "Any", Optional[Any], Union[int, Any], Item])
def test_any_value_passes_an_unrestricted_annotation(annotation: object) -> None:
    it = object()
    assert Registry(_adapter(annotation))["use"].bind({"it": it}, None) == {"it": it}


def test_without_pydantic_the_same_types_are_built_and_its_own_are_refused() -> None:
    code = """
        from __future__ import annotations
        import sys
        sys.path.insert(0, sys.argv[1])
        from dataclasses import dataclass
        from decimal import Decimal
        from typing import Annotated, Optional
        from snakepit_bridge import Adapter, command
        from snakepit_bridge._commands.registry import Registry
        from snakepit_bridge._errors.call_error import ArgumentsError

        @dataclass
        class Point:
            x: int
            price: Decimal | None = None

        class Shapes(Adapter):
            @command
            def draw(self, points: list[Point], note: Annotated[str, "a note"] = "") -> Missing: ...

        draw = Registry(Shapes())["draw"]
        print(draw.bind({"points": [{"x": 1, "price": "0.1"}]}, None))
        try:
            draw.bind({"points": [{"x": "1"}]}, None)
        except ArgumentsError as error:
            print(error.faults)

        class Marked:
            def __get_pydantic_core_schema__(self, source, handler): ...

        class Sized(Adapter):
            @command
            def size(self, number: Annotated[int, Marked()]) -> None: ...

        try:
            Registry(Sized())
        except TypeError as error:
            print(error)
        print("pydantic" in sys.modules)
    """
    # Without `site` there are no installed packages.
    command = [sys.executable, "-S", "-c", textwrap.dedent(code), str(ROOT)]
    lines = subprocess.check_output(command, text=True).splitlines()
    assert lines[0] == "{'points': [Point(x=1, price=Decimal('0.1'))]}"
    assert lines[1] == "[Fault(path=('points', 0, 'x'), message=\"expected int, got str '1'\")]"
    assert lines[2].endswith(
        "which needs pydantic: install it (pip install pydantic), or leave the metadata out"
    )
    assert lines[3] == "False"


class Numbers(Adapter):
    @command
    def array(self, value: npt.NDArray[Any]) -> None: ...

    @command
    def fraction(self, value: Fraction) -> None: ...


@pytest.mark.parametrize("value", [np.arange(2), np.array([1.5]), np.array([True])])
def test_an_array_of_any_type_is_taken(value: Any) -> None:
    assert Registry(Numbers())["array"].bind({"value": value}, None)["value"] is value


def test_a_fraction_means_the_decimal_number_of_a_float() -> None:
    bound = Registry(Numbers())["fraction"].bind({"value": 0.1}, None)
    assert bound["value"] == Fraction(1, 10)
