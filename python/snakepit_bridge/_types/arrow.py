"""Arrow tables, and their IPC streams.

pyarrow is imported when a table is created or read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

from snakepit_bridge._types.encoders import column_names
from snakepit_bridge._types.frames import index_labels
from snakepit_bridge._types.invalid import InvalidValueError
from snakepit_bridge._types.names import qualified_name

_INSTALL = "pyarrow; install it for the Python of the workers (pip install pyarrow)"


class Arrow:
    """A table that arrives in Elixir as a `%Snakepit.Arrow{}`. Make one with `arrow`."""

    __slots__ = ("table",)

    def __init__(self, table: Any) -> None:
        #: The `pyarrow.Table`.
        self.table = table

    def __repr__(self) -> str:
        return f"<Arrow {self.table.num_rows} x {self.table.num_columns}>"

    def stream(self) -> Sequence[Union[bytes, memoryview]]:
        """Returns an IPC stream in pieces, without copying the values of the columns."""
        sink = _Pieces()
        with _pyarrow().ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return sink.pieces


class _Pieces:
    """A writable file that keeps the written pieces."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[Union[bytes, memoryview]] = []

    def write(self, data: Any) -> int:
        self.pieces.append(data if isinstance(data, bytes) else memoryview(data))
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def arrow(frame: object) -> Arrow:
    """Marks a frame to be sent as an Arrow table: a `%Snakepit.Arrow{}`, not a map of lists.

    `frame` is a pandas or polars DataFrame or Series, a pyarrow Table, RecordBatch,
    RecordBatchReader (read to its end), Array or ChunkedArray, or an object with the method
    `__arrow_c_stream__`. Columns have the same names as in a map; a column without a name is "0".

    Raises a `TypeError` for anything else, a `ModuleNotFoundError` if pyarrow is not installed, and
    a `ValueError` if two columns of a pandas frame have the same name. If a column has values of
    more than one type, pyarrow's exception is raised.
    """
    try:
        return as_arrow(frame)
    except InvalidValueError as error:
        raise ValueError(f"the frame {error}") from None


def as_arrow(frame: object) -> Arrow:
    """Like `arrow`, but raises an `InvalidValueError` whose message continues after a path."""
    return Arrow(_table(frame))


def _table(frame: Any) -> Any:
    _pyarrow("arrow() needs")
    for base in type(frame).__mro__:
        convert = _TABLES.get(f"{str(base.__module__).partition('.')[0]}.{base.__name__}")
        if convert is not None:
            return convert(frame)
    if hasattr(frame, "__arrow_c_stream__"):
        return _pyarrow().table(frame)
    raise TypeError(
        "arrow() takes a pandas or polars frame or series, or a pyarrow table, batch, reader or "
        f"array, not {qualified_name(type(frame))}"
    )


def _pyarrow(who_needs: str = "") -> Any:
    try:
        import pyarrow.ipc  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{who_needs} {_INSTALL}", name=error.name) from error
    return pyarrow


def _pandas_frame(frame: Any) -> Any:
    labels = index_labels(frame.index, frame.columns)
    names = column_names(labels, frame.columns)
    if labels:
        frame = frame.reset_index()
    return _pyarrow().Table.from_pandas(frame.set_axis(names, axis=1), preserve_index=False)


_TABLES: dict[str, Callable[[Any], Any]] = {
    "pandas.DataFrame": _pandas_frame,
    "pandas.Series": lambda series: _pandas_frame(
        series.to_frame(0 if series.name is None else series.name)
    ),
    "polars.DataFrame": lambda frame: frame.to_arrow(),
    "polars.Series": lambda series: series.to_frame(series.name or "0").to_arrow(),
    "pyarrow.Table": lambda table: table,
    "pyarrow.RecordBatch": lambda batch: _pyarrow().Table.from_batches([batch]),
    "pyarrow.RecordBatchReader": lambda reader: reader.read_all(),
    "pyarrow.Array": lambda array: _pyarrow().table({"0": array}),
    "pyarrow.ChunkedArray": lambda array: _pyarrow().table({"0": array}),
}


def read(stream: memoryview) -> Any:
    """Returns the `pyarrow.Table` of an IPC stream, without copying it.

    Raises an `InvalidValueError` whose message continues after the value's path.
    """
    try:
        pyarrow = _pyarrow("has an Arrow table, which needs")
    except ModuleNotFoundError as error:
        raise InvalidValueError(str(error)) from None
    except Exception as error:
        problem = f"has an Arrow table, and pyarrow cannot be imported: {error!r}"
        raise InvalidValueError(problem) from error
    try:
        return pyarrow.ipc.open_stream(pyarrow.py_buffer(stream)).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidValueError(
            f"has an Arrow table that is not a valid stream of Arrow IPC: {error}"
        ) from None
