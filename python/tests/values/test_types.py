"""Values of every supported type arrive unchanged, whatever they contain."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import types
import uuid
import weakref
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge._values.fields import (
    InvalidValueError,
    decode,
    decode_fields,
    encode,
    encode_fields,
)


class Color(enum.Enum):
    RED = "red"
    DEEP = decimal.Decimal("1.5")


class Level(int, enum.Enum):
    LOW = 1


class Grade(float, enum.Enum):
    GOOD = 1.5


class Word(str, enum.Enum):
    YES = "yes"


class Own(dict[Any, Any]):
    """A dict whose items() differ from its content."""

    def items(self) -> Any:
        return list(super().items()) if len(self) == 1 else [("many", len(self))]


def carried(value: object) -> Any:
    kind, data = encode(value, kinds=True)
    return decode(data, "value", kind)


def carried_at_the_top(value: object) -> Any:
    return decode_fields(*encode_fields(value, kinds=True))


texts = st.text(st.characters(exclude_categories=["Cs"]))
int64s = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
keys = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | texts.map(str.encode)
    | st.uuids()
    | st.decimals().filter(lambda number: not number.is_snan())
    | st.datetimes()
    | st.dates()
    | st.sampled_from([*Color, *Level, *Grade, *Word, np.True_, np.int8(7), pd.NaT])
    | st.tuples(st.integers())
)


@given(keys)
def test_a_key_has_one_text_at_the_top_and_nested(key: object) -> None:
    top = carried_at_the_top({key: 1})
    assert carried([{key: 1}]) == [top]
    assert carried([{key: b"", "nan": float("nan")}])[0].keys() == {*top, "nan"}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Color.RED, "red"),
        (Color.DEEP, "1.5"),
        (Level.LOW, "1"),
        (Grade.GOOD, "1.5"),
        (Word.YES, "yes"),
        (dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone.utc), "2026-01-31T12:00:00+00:00"),
        (np.True_, "true"),
        (np.float64(0.5), "0.5"),
        (pd.NaT, "null"),
        (b"a", "a"),
        ((1, 2), "(1, 2)"),
        (frozenset(), "frozenset()"),
        (pd.Interval(0, 1), "(0, 1]"),
    ],
)
def test_a_key_has_the_text_of_its_encoded_value(key: object, text: str) -> None:
    assert carried_at_the_top({key: 1}) == {text: 1}
    assert carried([{key: 1}]) == [{text: 1}]


def test_keys_with_the_same_text_are_refused_with_their_place() -> None:
    with pytest.raises(InvalidValueError, match=r"^result has two keys with the same text"):
        encode_fields({Level.LOW: 1, "1": 2}, kinds=True)
    with pytest.raises(InvalidValueError, match=r"^result\.x has two keys with the same text"):
        encode_fields({"x": {Color.RED: 1, "red": 2}}, kinds=True)


def test_a_key_without_a_text_is_refused_with_its_place() -> None:
    class Nameless:
        def __str__(self) -> str:
            raise RuntimeError("no name")

    with pytest.raises(InvalidValueError, match=r"^result has a key of type .*Nameless, whose"):
        encode_fields({Nameless(): 1}, kinds=True)
    with pytest.raises(InvalidValueError, match=r"^result\.x\[0\] has a key of type .*Nameless"):
        encode_fields({"x": [{Nameless(): 1}]}, kinds=True)


@pytest.mark.parametrize(
    "make",
    [
        collections.OrderedDict,
        collections.UserDict,
        collections.ChainMap,
        types.MappingProxyType,
        lambda entries: collections.defaultdict(list, entries),
    ],
)
@settings(max_examples=25)
@given(entries=st.dictionaries(texts, texts | int64s | st.binary()))
def test_mappings_are_sent_as_maps(make: Callable[[Any], Any], entries: dict[str, Any]) -> None:
    assert carried(make(entries)) == entries
    assert carried([make(entries)]) == [entries]


@given(st.dictionaries(texts, int64s | st.binary(), max_size=3))
def test_a_dict_is_sent_as_its_items(entries: dict[str, Any]) -> None:
    wanted = entries if len(entries) < 2 else {"many": len(entries)}
    assert carried_at_the_top(Own(entries)) == wanted
    assert carried([Own(entries), float("nan")])[0] == wanted
    assert carried([Own(entries)]) == [wanted]


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        collections.deque,
        collections.UserList,
        lambda items: dict(enumerate(items)).values(),
        lambda items: np.array([*items, None], object)[:-1],
    ],
)
@settings(max_examples=25)
@given(items=st.lists(st.none() | texts | int64s | floats | st.binary()))
def test_sequences_are_sent_as_lists(make: Callable[[Any], Any], items: list[Any]) -> None:
    assert carried(make(items)) == items
    assert carried([make(items)]) == [items]


#: Types of columns: their values, and how to build one from a list with None for missing values.
COLUMNS: dict[str, tuple[st.SearchStrategy[Any], Callable[[list[Any]], Any]]] = {
    "pandas Int64": (int64s, lambda items: pd.array(items, "Int64")),
    "pandas int64[pyarrow]": (int64s, lambda items: pd.Series(items, dtype="int64[pyarrow]")),
    "pandas boolean": (st.booleans(), lambda items: pd.Series(items, dtype="boolean")),
    "pandas Float64": (floats, lambda items: pd.Series(items, dtype="Float64")),
    "pandas float64": (floats, lambda items: pd.Series(items, dtype="float64")),
    "pandas index": (floats, lambda items: pd.Index(items, dtype="float64")),
    "pandas string": (texts, lambda items: pd.array(items, "string")),
    "pandas object": (
        texts | int64s | st.lists(int64s) | st.dictionaries(texts, int64s),
        lambda items: pd.Series(items, dtype=object),
    ),
    "pandas category": (int64s | texts, pd.Categorical),
    "pandas categories": (int64s | texts, lambda items: pd.Series(items, dtype="category")),
    "pandas sparse": (floats, pd.arrays.SparseArray),
    "pandas lists": (
        st.lists(int64s),
        lambda items: pd.Series(items, dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
    ),
    "numpy texts": (
        texts,
        lambda items: np.array(items, np.dtypes.StringDType(na_object=None)),
    ),
    "numpy masked": (
        int64s,
        lambda items: np.ma.masked_array(
            np.array([item or 0 for item in items], "int64"), [item is None for item in items]
        ),
    ),
    "polars integers": (int64s, lambda items: pl.Series(items, dtype=pl.Int64)),
    "polars floats": (floats, lambda items: pl.Series(items, dtype=pl.Float64)),
    "polars texts": (texts, lambda items: pl.Series(items, dtype=pl.String)),
    "polars categories": (texts, lambda items: pl.Series(items, dtype=pl.Categorical)),
    "polars bytes": (st.binary(), lambda items: pl.Series(items, dtype=pl.Binary)),
    "polars lists": (st.lists(int64s), lambda items: pl.Series(items, dtype=pl.List(pl.Int64))),
    "arrow integers": (int64s, lambda items: pa.array(items, pa.int64())),
    "arrow texts": (texts, lambda items: pa.chunked_array([items], pa.string())),
    "arrow dictionary": (texts, lambda items: pa.array(items, pa.string()).dictionary_encode()),
    "arrow lists": (st.lists(int64s), lambda items: pa.array(items, pa.list_(pa.int64()))),
}


@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=25)
@given(data=st.data())
def test_columns_are_lists_with_none_for_missing_values(name: str, data: st.DataObject) -> None:
    elements, make = COLUMNS[name]
    items = data.draw(st.lists(st.none() | elements, max_size=5))
    assert carried(make(items)) == items
    assert carried([make(items)]) == [items]


indices = st.one_of(
    st.lists(int64s, min_size=3, max_size=3),
    st.lists(texts, min_size=3, max_size=3),
    st.lists(st.integers(0, 2**32), min_size=3, max_size=3).map(pd.to_datetime),
    st.lists(st.tuples(int64s, texts), min_size=3, max_size=3).map(pd.MultiIndex.from_tuples),
    st.sampled_from([pd.RangeIndex(3), pd.RangeIndex(1, 4), pd.Index([0, 1, 2])]),
)


@settings(max_examples=25)
@given(indices, st.sampled_from([None, "id"]), st.lists(floats, min_size=3, max_size=3))
def test_a_frame_is_sent_as_after_reset_index(index: Any, name: Any, items: list[float]) -> None:
    frame = pd.DataFrame({"x": items, "index": ["a", None, "c"]}, index=index)
    if name:
        frame.index = frame.index.set_names([f"id{n}" for n in range(frame.index.nlevels)])
    is_default = name is None and frame.index.tolist() == [0, 1, 2]
    wanted = frame if is_default else frame.reset_index()
    assert carried([frame]) == carried([wanted])
    series, column = frame["x"], carried(frame["x"])
    assert column == (items if is_default else carried(series.reset_index()))
    assert is_default or {*column} >= {"x"}


@given(st.permutations(["a", "b", "a_b", "", "c"]), st.permutations(["b", "", "c", "x", "a"]))
def test_columns_with_the_same_name_are_refused(outer: list[str], inner: list[str]) -> None:
    labels = list(zip(outer, inner))
    frame = pd.DataFrame([range(5)], columns=pd.MultiIndex.from_tuples(labels))
    names = ["_".join(filter(None, label)) for label in labels]
    if len({*names}) == len(names):
        assert carried(frame) == {name: [n] for n, name in enumerate(names)}
    else:
        with pytest.raises(InvalidValueError, match=r"^result\.x\[0\] has two columns that are"):
            encode_fields({"x": [frame]}, kinds=True)


UNITS = ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"]


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=25)
@given(counts=st.lists(st.integers(-(2**40), 2**40)))
def test_datetime64_is_sent_as_iso_8601_in_its_unit(unit: str, counts: list[int]) -> None:
    array: Any = np.array([*counts, -(2**63)], "int64").view(f"M8[{unit}]")
    *times, missing = carried(array)
    assert missing is None
    shown: Any = {"h": "s", "m": "s"}.get(unit, unit)
    # numpy does not read its own output for years before -999.
    readable = [n for n, text in enumerate(times) if len(text.lstrip("-").split("-")[0]) > 3]
    assert all(np.datetime64(times[n], shown) == array[n] for n in readable)
    assert carried([array[0], array[-1]]) == [*carried(array[:1]), None]


@pytest.mark.parametrize("unit", UNITS[2:])
@settings(max_examples=25)
@given(counts=st.lists(int64s.filter(lambda count: count != -(2**63))))
def test_timedelta64_is_sent_as_the_float_nearest_to_its_seconds(
    unit: str, counts: list[int]
) -> None:
    weeks = {"W": 604_800, "D": 86_400, "h": 3600, "m": 60}
    second = {name: 1000**n for n, name in enumerate(UNITS[6:])}
    array = np.array([*counts, -(2**63)], "int64").view(f"m8[{unit}]")
    wanted = [float(Fraction(n * weeks.get(unit, 1), second.get(unit, 1))) for n in counts]
    assert carried(array) == [*wanted, None]
    assert carried(list(array)) == [*wanted, None]


@given(st.lists(st.tuples(int64s, floats, st.booleans(), st.none() | texts)))
def test_records_are_sent_as_maps(rows: list[tuple[Any, ...]]) -> None:
    names = ["n", "x", "is", "t"]
    array = np.array(rows, list(zip(names, ["i8", "f8", "?", "O"])))
    wanted = [dict(zip(names, row)) for row in rows]
    assert carried(array) == wanted
    assert carried(array.view(np.recarray)) == wanted
    assert carried(list(array)) == wanted


@given(st.integers(0, 3), st.integers(0, 3), texts)
def test_lists_have_the_shape_of_their_array(rows: int, columns: int, text: str) -> None:
    array = np.full((rows, columns, 2), text, object)
    assert carried(array) == array.tolist()
    assert carried(np.array(text, object)) == text


def test_values_of_plain_columns_are_not_converted_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for a substitute")

    frame = pd.DataFrame({"n": [1, 2], "x": [0.5, None], "t": ["a", None], "is": [True, False]})
    columns = carried(frame)
    assert columns == {"n": [1, 2], "x": [0.5, None], "t": ["a", None], "is": [True, False]}
    monkeypatch.setattr("snakepit_bridge._types.encoders.Substitutes.of", refuse)
    assert carried(columns) == columns


def test_classes_with_fields_are_sent_as_maps() -> None:
    import attrs
    import msgspec

    @dataclasses.dataclass
    class Data:
        x: Any

    @attrs.define
    class Shape:
        x: Any

    class Event(msgspec.Struct):
        x: Any

    for cls in (Data, Shape, Event, types.SimpleNamespace):
        assert carried([cls(x=uuid.UUID(int=1))]) == [{"x": str(uuid.UUID(int=1))}]


def test_classes_that_a_program_makes_without_end_are_forgotten() -> None:
    first = type("Tags", (frozenset,), {})
    assert encode_fields({"tags": first("a")})[0] == {"tags": b'["a"]'}
    kept = weakref.ref(first)
    del first
    for _ in range(5000):
        encode_fields({"tags": type("Tags", (frozenset,), {})("a")})
    gc.collect()
    assert kept() is None


def test_no_part_of_a_secret_is_sent() -> None:
    import pydantic

    class Login(pydantic.BaseModel):
        key: pydantic.SecretStr
        data: pydantic.SecretBytes
        number: pydantic.Secret[int]

    login = Login(
        key=pydantic.SecretStr("a"), data=pydantic.SecretBytes(b""), number=pydantic.Secret(5)
    )
    assert carried(login) == {"key": "*" * 10, "data": "*" * 10, "number": "*" * 10}
