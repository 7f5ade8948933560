"""Converts frames and series of pandas, polars and Arrow to columns of Python values.

None of the packages is imported here: the code that created the frame has imported it.
"""

from __future__ import annotations

import sys
from typing import Any, Union

#: The formats with which polars writes times as in ISO 8601.
_POLARS_TIMES = {
    "Date": "%Y-%m-%d",
    "Datetime": "%Y-%m-%dT%H:%M:%S%.f",
    "Time": "%H:%M:%S%.f",
}
#: How many of each unit make a second.
_PARTS = {"ms": 10**3, "us": 10**6, "ns": 10**9}


class Columns:
    """The columns of a frame by label, in order: those of its index, and its own.

    A label that is a tuple is the path of a column under a MultiIndex.
    """

    __slots__ = ("index", "own")

    def __init__(
        self, own: list[tuple[object, list[Any]]], index: list[tuple[object, list[Any]]]
    ) -> None:
        self.own = own
        self.index = index


def pandas_frame(frame: Any) -> Columns:
    own = [(label, pandas_values(column)) for label, column in frame.items()]
    return Columns(own, _index(frame.index, frame.columns))


def pandas_series(series: Any) -> Union[Columns, list[Any]]:
    """Returns the values, or columns if the index contains more than the order of rows."""
    if _counts_rows(series.index):
        return pandas_values(series)
    name = 0 if series.name is None else series.name
    return Columns([(name, pandas_values(series))], _index(series.index, (name,)))


def pandas_values(values: Any) -> list[Any]:
    """Returns the values of a Series, an Index or an ExtensionArray, None for missing ones."""
    if getattr(values, "nlevels", 1) > 1:
        return [list(row) for row in zip(*_levels(values))]
    dtype, numpy = values.dtype, sys.modules["numpy"]
    kind = dtype.kind if isinstance(dtype, numpy.dtype) else "extension"
    if kind in "biu":
        return list(values.tolist())
    if hasattr(dtype, "categories"):
        return _picked(dtype.categories, getattr(values, "array", values).codes)
    missing = numpy.asarray(values.isna(), bool)
    if kind == "f" and not missing.any():
        return list(values.tolist())
    if hasattr(dtype, "pyarrow_dtype"):
        # An array of objects would represent nested lists as arrays.
        return [None if gone else item for item, gone in zip(list(values), missing.tolist())]
    objects = numpy.array(values, object)
    objects[missing] = None
    return list(objects.tolist())


def _levels(index: Any) -> list[list[Any]]:
    return [_picked(level, codes) for level, codes in zip(index.levels, index.codes)]


def _picked(choices: Any, codes: Any) -> list[Any]:
    """Returns the values of category codes; a code below zero means a missing value."""
    # None is the last of the list, where the index -1 finds it.
    choices = [*pandas_values(choices), None]
    return [choices[code] for code in codes.tolist()]


def pandas_interval(interval: Any) -> dict[str, object]:
    return {"left": interval.left, "right": interval.right, "closed": interval.closed}


def polars_frame(frame: Any) -> Columns:
    return Columns([(column.name, polars_values(column)) for column in frame.get_columns()], [])


def polars_values(series: Any) -> list[Any]:
    kind = str(series.dtype).partition("(")[0]
    if kind in _POLARS_TIMES:
        # Python's types end at the year 9999 and at microseconds.
        zone = "%:z" if getattr(series.dtype, "time_zone", None) else ""
        return list(series.dt.to_string(_POLARS_TIMES[kind] + zone).to_list())
    if kind != "Duration":
        return list(series.to_list())
    parts = _PARTS[series.dtype.time_unit]
    return [None if count is None else count / parts for count in series.to_physical().to_list()]


def arrow_table(table: Any) -> Columns:
    columns = zip(table.schema.names, table.columns)
    return Columns([(name, arrow_values(column)) for name, column in columns], [])


def arrow_values(values: Any) -> list[Any]:
    if str(values.type) == "time64[ns]":
        # Python's time ends at microseconds.
        values = values.cast("string")
    return list(values.to_pylist())


def arrow_scalar(value: Any) -> object:
    return value.cast("string").as_py() if str(value.type) == "time64[ns]" else value.as_py()


def index_labels(index: Any, labels: Any) -> list[object]:
    """Returns the labels of the columns of an index, as `reset_index` names them."""
    if _counts_rows(index):
        return []
    if index.nlevels > 1:
        return [f"level_{n}" if name is None else name for n, name in enumerate(index.names)]
    unnamed = "level_0" if "index" in labels else "index"
    return [unnamed if index.name is None else index.name]


def _index(index: Any, labels: Any) -> list[tuple[object, list[Any]]]:
    of_index = index_labels(index, labels)
    if not of_index:
        return []
    return list(zip(of_index, _levels(index) if index.nlevels > 1 else [pandas_values(index)]))


def _counts_rows(index: Any) -> bool:
    """Whether an index is the default one: without a name, numbering the rows from 0."""
    if index.nlevels > 1 or index.name is not None:
        return False
    size, kind = len(index), index.dtype.kind
    if not size:
        # Before pandas 2 the default index of an empty frame has the dtype object.
        return kind in "iu" or str(index.dtype) == "object"
    if kind not in "iu" or index.hasnans or index[0] != 0 or index[-1] != size - 1:
        return False
    return bool((index == sys.modules["numpy"].arange(size)).all())
