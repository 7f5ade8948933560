"""The plain rules, for peers that know no kinds. For all others see test_kinds.py."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge._values import fields
from snakepit_bridge._values.fields import MAX_DEPTH, InvalidValueError, decode, decode_fields


def encode(value: object) -> bytes:
    return fields.encode(value)[1]


def encode_fields(value: object) -> dict[str, bytes]:
    encoded, kinds = fields.encode_fields(value)
    assert kinds is None
    return encoded


texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)


@given(json_values)
def test_json_values_arrive_unchanged(value: Any) -> None:
    assert decode(encode(value)) == value


@given(json_values)
def test_sent_values_are_standard_json(value: Any) -> None:
    assert json.loads(encode(value)) == value


@given(st.binary())
def test_bytes_are_sent_unchanged(data: bytes) -> None:
    assert encode(data) == data
    assert encode_fields({"data": bytearray(data)}) == {"data": data}


@given(st.binary())
def test_any_bytes_can_be_received(data: bytes) -> None:
    value = decode(data)
    if isinstance(value, bytes):
        with pytest.raises(UnicodeDecodeError):
            data.decode()
    else:
        data.decode()


def test_integers_of_any_size_are_exact() -> None:
    value = 7**9000
    assert decode(encode(value)) == value
    assert decode(encode([{"n": -value}])) == [{"n": -value}]


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"1", 1),
        (b'"123"', "123"),
        (b"hello", "hello"),
        (b"", ""),
        (b" [1, 2] ", [1, 2]),
        (b"\xff", b"\xff"),
        (b"1\x00", "1\x00"),
        (b"NaN", "NaN"),
        (b"-Infinity", "-Infinity"),
        (b"[NaN]", "[NaN]"),
        (b"\xef\xbb\xbf1", "\ufeff1"),
        ("grün".encode(), "grün"),
    ],
)
def test_the_plain_rules(data: bytes, value: object) -> None:
    decoded = decode(data)
    assert decoded == value
    assert type(decoded) is type(value)


def test_a_result_that_is_not_a_dict_is_one_field() -> None:
    assert encode_fields([1, 2]) == {"result": b"[1,2]"}
    assert encode_fields(None) == {"result": b"null"}
    assert encode_fields("123") == {"result": b'"123"'}


def test_keys_become_strings() -> None:
    assert encode_fields({1: {2: 3}, (1, 2): 4}) == {"1": b'{"2":3}', "(1, 2)": b"4"}
    assert encode({(1, 2): {None: 0, True: 1}}) == b'{"(1, 2)":{"null":0,"true":1}}'


def test_subclasses_of_json_types_are_sent() -> None:
    class Color(str, enum.Enum):
        RED = "red"

    assert encode([OrderedDict(a=(1, 2)), Color.RED]) == b'[{"a":[1,2]},"red"]'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"items": [0, 1, 2, {"model": object()}]}, "result.items[3].model is of type object"),
        (math.nan, "result is nan"),
        ({"a b": [math.inf]}, "result['a b'][0] is inf"),
        (
            {"x": {"y": b"z"}},
            "result.x.y is bytes, which JSON cannot represent; only a top-level field",
        ),
        ({"x": 1j}, "result.x is of type complex"),
        (["\ud800"], "result[0] has a lone surrogate"),
        ({"\ud800": 1}, "has a lone surrogate"),
        ({"x": {"\ud800": 1}}, "has a lone surrogate"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named(value: object, message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        encode_fields(value)
    assert message in str(caught.value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_nesting_is_limited_in_both_directions() -> None:
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    for depth in (MAX_DEPTH + 1, 50_000):
        with pytest.raises(InvalidValueError, match="nested deeper than 128"):
            encode_fields({"x": nested(depth)})
        with pytest.raises(InvalidValueError, match=r"^x is nested deeper than 128"):
            decode_fields({"x": b"[" * depth + b"]" * depth})


def test_many_brackets_are_not_depth() -> None:
    value: list[Any] = [[] for _ in range(1000)]
    assert decode(encode(value)) == value


def test_a_cycle_is_too_deep() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidValueError, match="nested deeper"):
        encode(value)
