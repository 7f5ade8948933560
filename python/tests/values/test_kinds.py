"""How values travel between Snakepit's own ends: nothing is guessed, nothing is lost."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from client import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge import Tensor, register_encoder
from snakepit_bridge._types.encoders import mark_unencodable
from snakepit_bridge._types.tensor import DTYPES, ML_DTYPES
from snakepit_bridge._values.fields import (
    BYTES,
    EXTENDED,
    JSON,
    MAX_DEPTH,
    TEXT,
    InvalidValueError,
    decode,
    decode_extended,
    decode_fields,
    encode,
    encode_extended,
    encode_fields,
)
from snakepit_bridge._values.tagged import ALIGNMENT, TAG

ML_ARRAYS = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.just(TAG)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)


def carried(value: object) -> Any:
    kind, data = encode(value, kinds=True)
    return decode(data, "value", kind)


@given(values)
def test_values_arrive_unchanged(value: Any) -> None:
    arrived = carried(value)
    assert repr(arrived) == repr(value)
    assert repr(decode_extended(encode_extended(value))) == repr(value)


@settings(max_examples=25)
@given(st.dictionaries(texts, values))
def test_kinds_are_in_the_order_of_the_names(fields: dict[str, Any]) -> None:
    encoded, kinds = encode_fields(fields, kinds=True)
    assert kinds is not None
    assert decode_fields(encoded, kinds) == fields
    by_bytes = sorted(encoded, key=str.encode)
    assert [encode(fields[name], kinds=True)[0] for name in by_bytes] == list(kinds)


@pytest.mark.parametrize(
    ("value", "kind", "data"),
    [
        ("grün", TEXT, "grün".encode()),
        ("", TEXT, b""),
        (b"text", BYTES, b"text"),
        (bytearray(b"a"), BYTES, b"a"),
        (None, JSON, b"null"),
        ([1, "a"], JSON, b'[1,"a"]'),
        ({TAG: 1}, JSON, b'{"$snakepit":1}'),
        (math.nan, EXTENDED, b"NaN"),
        ([math.inf, -math.inf], EXTENDED, b"[Infinity,-Infinity]"),
        ({1}, JSON, b"[1]"),
        (
            [b"\xff", {TAG: 1}],
            EXTENDED,
            b'[{"$snakepit":["bytes",0,1]},{"$snakepit":["map",[["$snakepit",1]]]}]'.ljust(
                128, b"\0"
            )
            + b"\xff",
        ),
    ],
)
def test_the_bytes_are_those_of_the_guide(value: object, kind: int, data: bytes) -> None:
    assert encode(value, kinds=True) == (kind, data)


@given(st.lists(st.binary(max_size=100) | st.just(Tensor("int8", (3,), b"abc"))))
def test_tensors_are_aligned_in_the_tail(pieces: list[Any]) -> None:
    data = encode_extended(pieces)
    for mark in json.loads(data.partition(b"\0")[0]):
        if mark[TAG][0] == "tensor":
            assert mark[TAG][3] % ALIGNMENT == 0


@st.composite
def arrays(draw: Any) -> Any:
    """An array of any dtype, shape, layout and bytes."""
    name = draw(st.sampled_from([name for name in DTYPES if name != "bool"]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = np.dtype(getattr(ml_dtypes, name) if name in ML_DTYPES else name)
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    array = np.ndarray(shape, dtype, data) if size else np.zeros(shape, dtype)
    return draw(st.sampled_from([array, array.T, array[::-1] if shape else array]))


@given(st.lists(arrays(), max_size=5))
def test_arrays_of_any_dtype_arrive_unchanged(given: list[Any]) -> None:
    for array, arrived in zip(given, carried([*given, b"\xff"])):
        assert (arrived.dtype, arrived.shape) == (array.dtype, array.shape)
        assert arrived.tobytes() == array.tobytes()
    tensors = [Tensor(array.dtype.name, array.shape, array.tobytes()) for array in given]
    assert repr([tensor.tolist() for tensor in tensors]) == repr([a.tolist() for a in given])


@given(arrays())
def test_an_array_by_itself_has_the_bytes_of_one_in_a_value(array: Any) -> None:
    swapped = array.astype(array.dtype.newbyteorder(">"))
    for each in (array, swapped):
        assert encode(each, kinds=True) == (EXTENDED, encode_extended(each))


def test_an_array_is_not_copied_and_cannot_be_written() -> None:
    array = np.arange(1000, dtype="float64").reshape(10, 100)
    data = encode_extended({"x": [array]})
    arrived = decode_extended(data)["x"][0]
    assert np.array_equal(arrived, array)
    assert np.shares_memory(arrived, np.frombuffer(data, "uint8"))
    assert arrived.flags.aligned
    assert not arrived.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=">i4").reshape(2, 3, 4),
        np.arange(24, dtype="int16").reshape(4, 6).T,
        np.arange(24, dtype="uint64")[::-2],
        np.asfortranarray(np.ones((3, 4), "float16")),
        np.array(5, "uint8"),
        np.array(0.5, "float16"),
        np.zeros((0, 3), "float32"),
        np.arange(24, dtype="float64").reshape(2, 3, 4),
        np.frombuffer(bytes(8), "int16"),
        np.eye(3, dtype="complex64").view(type("Subclass", (np.ndarray,), {})),
        np.array([True, False]),
        np.arange(6, dtype="complex64").reshape(2, 3).T * (1 + 2j),
        np.array(1 + 2j, ">c16"),
        *(np.arange(6).astype(dtype).reshape(2, 3).T for dtype in ML_ARRAYS),
        *(np.array(0.5, dtype) for dtype in ML_ARRAYS),
        *(np.zeros((0, 3), dtype) for dtype in ML_ARRAYS),
    ],
)
def test_any_layout_arrives_as_the_same_array(array: Any) -> None:
    for arrived in (carried(array), carried([array])[0]):
        assert arrived.dtype.name == array.dtype.name
        assert np.array_equal(arrived, array)
    assert encode(array, kinds=True)[1] == encode_extended(array)


@pytest.mark.parametrize("dtype", ["clongdouble", ml_dtypes.int4])
def test_arrays_of_unsupported_numbers_are_refused_by_dtype(dtype: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"result\.x is a numpy array of dtype"):
        encode_fields({"x": np.zeros(2, dtype)}, kinds=True)


def test_a_tensor_returns_its_elements() -> None:
    data = struct.pack("<6f", *range(6))
    assert Tensor("float32", (2, 3), data).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert Tensor("float32", (), data[:4]).tolist() == 0
    assert Tensor("bool", (2, 0, 3), b"").tolist() == np.zeros((2, 0, 3)).tolist()
    with pytest.raises(ValueError, match="has 8 bytes, not 4"):
        Tensor("float32", (2,), data[:4])
    with pytest.raises(ValueError, match="one of bool, int8"):
        Tensor("int4", (2,), b"")


@pytest.mark.parametrize("dtype", ML_ARRAYS)
def test_a_tensor_of_small_floats_returns_the_same_elements_as_numpy(dtype: Any) -> None:
    size = np.dtype(dtype).itemsize
    codes = np.arange(256**size, dtype=f"uint{8 * size}")
    wanted = codes.view(dtype).tolist()
    assert repr(Tensor(dtype.__name__, codes.shape, codes.tobytes()).tolist()) == repr(wanted)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_tensor_of_complex_numbers_returns_its_elements(dtype: str) -> None:
    array = np.array([[1 + 2j, complex(0, math.inf)], [-0.5j, 3]], dtype)
    assert Tensor(dtype, (2, 2), array.tobytes()).tolist() == array.tolist()


def test_a_tensor_says_when_it_would_be_an_array() -> None:
    with pytest.raises(AttributeError, match=r"no 'mean'; .*int8 is a numpy array where numpy is"):
        Tensor("int8", (1,), b"a").mean()
    with pytest.raises(AttributeError, match="where numpy and ml_dtypes are installed"):
        Tensor("bfloat16", (1,), b"ab").mean()
    assert copy.copy(Tensor("int8", (1,), b"a")) == Tensor("int8", (1,), b"a")


def test_torch_tensors_are_supported() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "int16"):
        tensor = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).to(getattr(torch, dtype)).T
        wanted = np.array([[1, 0.5], [-2, 3]]).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
        arrived = carried([tensor])[0]
        assert arrived.dtype == wanted.dtype
        assert arrived.tolist() == wanted.tolist()
    tensor = torch.tensor([1 + 2j], requires_grad=True)
    assert carried(tensor.conj()).tolist() == [1 - 2j]
    assert carried(torch.tensor(0.5).bfloat16()).tolist() == 0.5


def test_without_numpy_an_argument_is_a_tensor() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from snakepit_bridge import Tensor\n"
        "from snakepit_bridge._values import fields\n"
        "tensor = Tensor('int16', (2,), b'abcd')\n"
        "assert fields.decode_extended(fields.encode_extended(tensor)) == tensor\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_without_ml_dtypes_an_argument_of_its_dtypes_is_a_tensor() -> None:
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "from snakepit_bridge import Tensor\n"
        "from snakepit_bridge._values import fields\n"
        "tensor = Tensor('bfloat16', (2,), b'abcd')\n"
        "assert fields.decode_extended(fields.encode_extended(tensor)) == tensor\n"
        "tensor = Tensor('complex64', (1,), b'abcdefgh')\n"
        "assert fields.decode_extended(fields.encode_extended(tensor)).dtype == 'complex64'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(("broken", "dtype"), [("numpy", "int16"), ("ml_dtypes", "bfloat16")])
def test_a_package_that_cannot_be_imported_makes_only_the_tensor_unreadable(
    tmp_path: Path, broken: str, dtype: str
) -> None:
    (tmp_path / f"{broken}.py").write_text("raise ValueError('compiled for another numpy')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from snakepit_bridge import Tensor\n"
        "from snakepit_bridge._values import fields\n"
        f"data = fields.encode_extended([1, Tensor({dtype!r}, (2,), b'abcd')])\n"
        "problems = []\n"
        "assert fields.decode_extended(data, problems=problems) == [1, None]\n"
        "assert 'compiled for another numpy' in problems[0], problems\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_package_is_imported_for_its_types() -> None:
    code = (
        "import sys\n"
        "from snakepit_bridge._values import fields\n"
        "fields.encode_fields({'a': [1, {2}, b'', object.__doc__]}, kinds=True)\n"
        "sys.exit(str({'numpy', 'pandas', 'pyarrow', 'pydantic'} & set(sys.modules)) != 'set()')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class Money:
    def __init__(self, amount: object) -> None:
        self.amount = amount


class Price(Money):
    pass


class Broken:
    pass


class Endless:
    pass


@pytest.fixture
def _marked() -> Iterator[None]:
    mark_unencodable(mark=True)
    yield
    mark_unencodable(mark=False)


def test_a_registered_encoder_applies_to_subclasses_too() -> None:
    @register_encoder(Money)
    def encode_money(money: Money) -> dict[str, object]:
        return {"amount": money.amount}

    assert carried([Price(b"\xff")]) == [{"amount": b"\xff"}]
    register_encoder(Price, lambda price: price.amount)
    assert carried([Price(5), Money(6)]) == [5, {"amount": 6}]


def test_an_encoder_that_fails_is_named() -> None:
    register_encoder(Broken, lambda _: 1 / 0)
    with pytest.raises(InvalidValueError, match=r"result\[0\] is of type .*Broken, whose encoder"):
        encode([Broken()], kinds=True)
    register_encoder(Endless, lambda value: value)
    with pytest.raises(InvalidValueError, match=r"result\[0\] is of a type whose encoder"):
        encode([Endless()], kinds=True)
    register_encoder(Endless, lambda value: [value])
    with pytest.raises(InvalidValueError, match="nested deeper"):
        encode([Endless()], kinds=True)


@pytest.mark.usefixtures("_marked")
def test_a_marker_replaces_a_value_that_cannot_be_sent() -> None:
    value = {"a": [1, object()], "b": np.array([1], "m8[M]"), "c": "\ud800"}
    with pytest.raises(InvalidValueError, match="lone surrogate"):
        encode_fields(value, kinds=True)
    del value["c"]
    fields, kinds = encode_fields(value, kinds=True)
    assert decode_fields(fields, kinds) == {
        "a": [1, {"$unencodable": "object"}],
        "b": {"$unencodable": "numpy.ndarray"},
    }
    assert encode({"x": b"\xff"}) == (JSON, b'{"x":{"$unencodable":"bytes"}}')


@pytest.mark.parametrize(
    ("kind", "data", "problem"),
    [
        (TEXT, b"\xff", "is marked as text"),
        (JSON, b"\xff", "is marked as text"),
        (JSON, b"{", "is not valid JSON"),
        (JSON, b"NaN", "is not valid JSON"),
        (JSON, b"1" * 200_000, "more than 100000 digits"),
        (5, b"", "has the unknown kind 5"),
        (EXTENDED, b"[", "is not valid extended JSON"),
        (EXTENDED, b"\xff", "is not valid extended JSON"),
        (EXTENDED, b"[" * 100_000, "nested deeper"),
        (EXTENDED, b'{"$snakepit":1}', "invalid tag"),
        (EXTENDED, b'{"$snakepit":[]}', "invalid tag"),
        (EXTENDED, b'{"$snakepit":["x"]}', "its name is 'x'"),
        (EXTENDED, b'{"$snakepit":["bytes",0,1]}', "the tail does not have 1 bytes at 0"),
        (EXTENDED, b'{"$snakepit":["bytes",-1,0]}', "the tail does not have 0 bytes at -1"),
        (EXTENDED, b'{"$snakepit":["map",[[[],1]]]}', "invalid tag"),
        (EXTENDED, b'{"$snakepit":["map",[]],"a":1}', "invalid tag"),
        (EXTENDED, b'{"$snakepit":["tensor","x",[],0,0]}', "expected dtype to be one of"),
        (EXTENDED, b'{"$snakepit":["tensor","int8",[1],0,0]}', "has 1 bytes, not 0"),
        (
            EXTENDED,
            b'[{"$snakepit":["bytes",0,2]},{"$snakepit":["bytes",1,1]}]'.ljust(64, b"\0") + b"ab",
            "the tail does not have 1 bytes at 1",
        ),
    ],
)
def test_bytes_that_do_not_match_their_kind_are_refused(
    kind: int, data: bytes, problem: str
) -> None:
    with pytest.raises(InvalidValueError, match=problem):
        decode(data, "value", kind)


def test_the_number_of_kinds_must_match_the_fields() -> None:
    with pytest.raises(InvalidValueError, match="1 arguments came with 2 kinds"):
        decode_fields({"a": b"1"}, bytes((JSON, JSON)))


@given(st.binary(), st.integers(0, 5))
def test_any_bytes_become_a_value_or_a_clear_error(data: bytes, kind: int) -> None:
    try:
        decode(data, "value", kind)
    except InvalidValueError as error:
        assert str(error).startswith("value ")  # noqa: PT017


def test_integers_and_nesting_have_limits() -> None:
    assert carried(10**99_000) == 10**99_000
    with pytest.raises(InvalidValueError, match="more than 100000 digits"):
        encode([10**100_001], kinds=True)
    value: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert carried(value) == value
    assert carried([[b"\xff"], {"]" * 200: "[" * 500}]) == [[b"\xff"], {"]" * 200: "[" * 500}]
    with pytest.raises(InvalidValueError, match="nested deeper"):
        encode([value], kinds=True)
    with pytest.raises(InvalidValueError, match="nested deeper"):
        encode([value, b"\xff"], kinds=True)


def test_a_map_with_the_key_of_tags_is_one_level() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH - 1):
        value = {"$snakepit": value}
    assert decode_extended(encode_extended(value)) == value
    with pytest.raises(InvalidValueError, match="nested deeper"):
        encode_extended([[value]])


class Cursor:
    def __init__(self, rows: list[Any]) -> None:
        self.rows = iter(rows)


@pytest.mark.parametrize(
    "row", [1, 10**200, float("nan"), b"\xff", {"$snakepit": 1}, [Cursor([b"\xff"])]]
)
def test_an_encoder_runs_once_for_each_value(row: object) -> None:
    register_encoder(Cursor, lambda cursor: list(cursor.rows))
    cursor = Cursor([row])
    expected = [[[b"\xff"]]] if isinstance(row, list) else [row]
    assert repr(carried([cursor, cursor])) == repr([expected, expected])


def test_nothing_is_kept_of_a_result_that_cannot_be_sent() -> None:
    register_encoder(Cursor, lambda cursor: [1 / row for row in cursor.rows])
    good, bad = Cursor([1]), Cursor([0])
    gone = [weakref.ref(good), weakref.ref(bad)]
    gc.disable()
    try:
        with contextlib.suppress(InvalidValueError):
            encode([good, bad], kinds=True)
        del good, bad
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_an_encoder_that_has_failed_does_not_run_again() -> None:
    register_encoder(Cursor, lambda cursor: [1 / row for row in cursor.rows])
    for kinds in (False, True):
        with pytest.raises(InvalidValueError, match=r"result\[0\] is of .* whose encoder raised"):
            encode([Cursor([0])], kinds=kinds)


class Counted(np.ndarray[Any, Any]):
    """Counts how often its elements are read."""

    reads = 0

    def astype(self, *args: Any, **options: Any) -> Any:
        Counted.reads += 1
        return super().astype(*args, **options)


def test_an_array_is_converted_once_and_as_any_other_value() -> None:
    numbers = np.arange(6, dtype=">i2").reshape(2, 3).T
    reads = Counted.reads
    kind, data = encode(numbers.view(Counted), kinds=True)
    assert Counted.reads == reads + 1
    assert (kind, data) == (EXTENDED, encode_extended(numbers))
    assert decode(data, kind=kind).tolist() == numbers.tolist()
