"""Tables that travel as Arrow tables."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from client import ROOT
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge import arrow
from snakepit_bridge._types.encoders import encode_frames_by
from snakepit_bridge._values.extended_reader import decode_extended
from snakepit_bridge._values.extended_writer import encode_extended
from snakepit_bridge._values.fields import EXTENDED, InvalidValueError, decode, encode
from snakepit_bridge._values.tagged import ALIGNMENT, TAG

VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    (pa.large_binary(), st.binary()),
    (pa.timestamp("us", "Europe/Berlin"), st.datetimes(timezones=st.just(dt.timezone.utc))),
    (pa.duration("ns"), st.integers(-(2**63) + 1, 2**63 - 1)),
    (pa.date32(), st.dates()),
    (pa.list_(pa.int16()), st.lists(st.none() | st.integers(-(2**15), 2**15 - 1))),
    (pa.struct({"x": pa.int8(), "y": pa.string()}), st.just({"x": 1, "y": None})),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from("abc")),
]


@st.composite
def tables(draw: Any) -> Any:
    """A table of up to three chunks, with nulls."""
    types = draw(st.lists(st.sampled_from(VALUES), max_size=4))
    schema = pa.schema([(f"c{n}", kind) for n, (kind, _) in enumerate(types)])
    batches = []
    for size in draw(st.lists(st.integers(0, 10), max_size=3)):
        columns = [
            pa.array(draw(st.lists(st.none() | value, min_size=size, max_size=size)), kind)
            for kind, value in types
        ]
        batches.append(pa.record_batch(columns, schema=schema))
    table = pa.Table.from_batches(batches if types else [], schema)
    return table.slice(draw(st.integers(0, 3)))


def carried(value: object) -> Any:
    kind, data = encode(value, kinds=True)
    assert kind == EXTENDED
    return decode(data, "value", kind)


@given(tables())
def test_a_table_arrives_unchanged(table: Any) -> None:
    arrived, text = carried([arrow(table), "x"])
    assert arrived.schema.equals(table.schema)
    assert arrived.equals(table)
    assert text == "x"


@given(st.lists(st.binary(max_size=100) | st.just(arrow(pa.table({"n": [1]})))))
def test_tables_are_aligned_in_the_tail(pieces: list[Any]) -> None:
    for tag in json.loads(encode_extended(pieces).partition(b"\0")[0]):
        if tag[TAG][0] == "arrow":
            assert tag[TAG][1] % ALIGNMENT == 0


def addresses(table: Any) -> set[int]:
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    return {buffer.address for chunk in chunks for buffer in chunk.buffers() if buffer is not None}


def test_columns_are_not_copied_into_pieces_nor_out_of_a_message() -> None:
    table = pa.table({"x": np.arange(10_000, dtype="float64"), "t": ["some text"] * 10_000})
    pieces = arrow(table).stream()
    shared = {pa.py_buffer(piece).address for piece in pieces if isinstance(piece, memoryview)}
    assert len(addresses(table) & shared) == len(addresses(table))
    data = pa.py_buffer(encode_extended([b"\xff", arrow(table)]))
    arrived = decode_extended(data.to_pybytes())
    assert arrived[1].equals(table)
    # Not a byte of it is in memory that pyarrow has allocated.
    before = pa.total_allocated_bytes()
    kept = decode_extended(data.to_pybytes())
    assert pa.total_allocated_bytes() == before
    assert kept[1].equals(table)


def test_polars_reads_and_writes_the_same_streams() -> None:
    frame = pl.DataFrame(
        {
            "n": [1, None],
            "t": ["a", None],
            "l": [[1.5], None],
            "s": [{"x": 1}, {"x": None}],
            "c": pl.Series(["a", "b"], dtype=pl.Categorical),
            "at": pl.Series([0, None]).cast(pl.Datetime("ms", "Europe/Berlin")),
        }
    )
    assert pl.read_ipc_stream(b"".join(arrow(frame).stream())).equals(frame)
    assert pl.DataFrame(carried(arrow(frame))).equals(frame)
    stream = frame.write_ipc_stream(None).getvalue()
    tag = f'{{"{TAG}":["arrow",0,{len(stream)}]}}'.encode()
    data = tag + bytes(ALIGNMENT - len(tag) % ALIGNMENT) + stream
    assert pl.DataFrame(decode_extended(data)).equals(frame)


def test_a_pandas_frame_has_the_same_columns_as_its_map() -> None:
    frame = pd.DataFrame({"n": [1, 2, 3], "c": ["a", "b", "a"]}).groupby("c").agg(["sum", "max"])
    assert carried(arrow(frame)).to_pydict() == carried([frame, b"\xff"])[0]
    assert carried(arrow(pd.DataFrame([[1, 2]]))).to_pydict() == {"0": [1], "1": [2]}
    series = pd.Series(["a", "b", "a"], name="c").value_counts()
    assert carried(arrow(series)).to_pydict() == {"c": ["a", "b"], "count": [2, 1]}
    assert frame.columns.nlevels == 2


def test_any_object_with_the_arrow_interface_is_accepted() -> None:
    class Source:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.table({"n": [1]}).__arrow_c_stream__(requested_schema)

    assert carried(arrow(Source())).equals(pa.table({"n": [1]}))


def test_a_value_that_is_not_a_frame_is_refused_by_arrow() -> None:
    for value in (None, [1], {"n": [1]}, pl.LazyFrame({"n": [1]})):
        if not hasattr(value, "__arrow_c_stream__"):
            with pytest.raises(TypeError, match=r"arrow\(\) takes a pandas or polars frame"):
                arrow(value)
    with pytest.raises(ValueError, match=r"^the frame has two columns that are named 'a'"):
        arrow(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(pa.ArrowException):
        arrow(pd.DataFrame({"a": [1, "x", b"y"]}))


def test_plain_json_cannot_represent_a_table() -> None:
    with pytest.raises(
        InvalidValueError, match=r"^result.x is .*Arrow, which JSON cannot represent"
    ):
        encode({"x": arrow(pa.table({"n": [1]}))})


@pytest.fixture
def _frames_as_arrow() -> Iterator[None]:
    encode_frames_by(arrow)
    yield
    encode_frames_by(None)


@pytest.mark.usefixtures("_frames_as_arrow")
def test_frames_can_be_sent_as_tables_without_marking() -> None:
    table = pa.table({"n": [1]})
    for frame in (table, pa.record_batch({"n": [1]}), pd.DataFrame({"n": [1]}), table.to_pandas()):
        assert carried([frame])[0].equals(table)
    assert encode(pd.Series([1]), kinds=True)[1] == b"[1]"


def test_a_frame_is_converted_to_a_table_once() -> None:
    made = []

    def counted(frame: object) -> object:
        made.append(frame)
        return arrow(frame)

    encode_frames_by(counted)
    try:
        encode([pd.DataFrame({"n": [1]})], kinds=True)
    finally:
        encode_frames_by(None)
    assert len(made) == 1


def test_without_pyarrow_the_error_says_what_to_do() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; sys.modules['pyarrow.ipc'] = None\n"
        "from snakepit_bridge import arrow\n"
        "from snakepit_bridge._values import fields\n"
        "import pytest\n"
        "with pytest.raises(ModuleNotFoundError, match=r'pip install pyarrow'):\n"
        "    arrow([])\n"
        'data = b\'{"$snakepit":["arrow",0,0]}\'\n'
        "with pytest.raises(ValueError, match=r'^x has an Arrow table, which needs pyarrow'):\n"
        "    fields.decode(data, 'x', 4)\n"
        "problems = []\n"
        "assert fields.decode_extended(data, problems=problems) is None\n"
        "assert 'pip install pyarrow' in problems[0]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
