"""Converts arrays of numpy and torch to tensors of numbers, or to lists of anything else.

Neither package is imported here: the code that created the value has imported it.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from snakepit_bridge._types.invalid import InvalidValueError
from snakepit_bridge._types.tensor import (
    DTYPES,
    ML_DTYPES,
    Tensor,
    dtype_name,
    item_size,
    nested,
    of_array,
)

#: Factor and divisor that convert a timedelta64 of each unit to seconds.
_SECONDS = {
    "W": (604_800, 1),
    "D": (86_400, 1),
    "h": (3600, 1),
    "m": (60, 1),
    "s": (1, 1),
    "ms": (1, 10**3),
    "us": (1, 10**6),
    "ns": (1, 10**9),
    "ps": (1, 10**12),
    "fs": (1, 10**15),
    "as": (1, 10**18),
}
_NOT_A_TIME = -(2**63)
#: The kinds of dtypes that are sent as lists: bytes, text, times, objects.
_LISTED = frozenset("SUTMmO")


def array(value: Any) -> object:
    """Converts a numpy array of numbers to a `Tensor`, and any other one to nested lists."""
    dtype = value.dtype
    if dtype_name(dtype) not in DTYPES:
        # Packages define number types that have the kind of records, and another character.
        if dtype.kind in _LISTED or dtype.char == "V":
            return lists(value)
        if dtype.kind == "f":
            value = _doubles(value)
    return of_array(value)


def torch_tensor(tensor: Any) -> object:
    """Converts a torch tensor to a numpy array, or to a `Tensor` if numpy lacks its dtype."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).partition(".")[2]
    if name not in ML_DTYPES:
        return tensor.numpy()
    torch = sys.modules["torch"]
    same_size = torch.uint8 if item_size(name) == 1 else torch.int16
    bits = tensor.contiguous().view(same_size).numpy()
    return Tensor(name, tuple(tensor.shape), bits.reshape(-1).view("uint8").data)


def lists(value: Any) -> Any:
    """Returns the elements of an array in nested lists; masked elements and NaT are None."""
    if value.dtype.names is not None:
        items: list[object] = _records(value.reshape(-1))
    elif isinstance(value, sys.modules["numpy"].ma.MaskedArray):
        mask = sys.modules["numpy"].ma.getmaskarray(value).reshape(-1).tolist()
        items = _plain(value.data.reshape(-1))
        items = [None if masked else item for item, masked in zip(items, mask)]
    else:
        items = _plain(sys.modules["numpy"].asarray(value).reshape(-1))
    return nested(items, value.shape)


def scalar(value: Any) -> object:
    """Converts a time or a record, whose array is sent as a list."""
    return lists(sys.modules["numpy"].asarray(value))


def long_double(value: Any) -> float:
    """Returns the nearest 64-bit float."""
    number = float(value)
    if math.isinf(number) and number != value:
        raise InvalidValueError("is a number beyond the range of 64-bit floats")
    return number


def _doubles(value: Any) -> Any:
    numpy = sys.modules["numpy"]
    with numpy.errstate(over="ignore"):
        doubles = value.astype("float64")
    if (numpy.isinf(doubles) & ~numpy.isinf(value)).any():
        raise InvalidValueError(
            f"is a numpy array of dtype {value.dtype}, and has a number beyond the range of "
            "64-bit floats"
        )
    return doubles


def _records(value: Any) -> list[object]:
    fields = {name: lists(value[name]) for name in value.dtype.names}
    return [{name: field[row] for name, field in fields.items()} for row in range(len(value))]


def _plain(value: Any) -> list[object]:
    kind = value.dtype.kind
    if kind == "M":
        return _times(value)
    if kind == "m":
        return _seconds(value)
    items: list[object] = value.tolist()
    # A missing text may be represented by any object.
    return [item if isinstance(item, str) else None for item in items] if kind == "T" else items


def _times(value: Any) -> list[object]:
    numpy = sys.modules["numpy"]
    unit = numpy.datetime_data(value.dtype)[0]
    # Most readers of ISO 8601 expect seconds in a time of day.
    unit = "s" if unit in ("h", "m") else None
    texts = numpy.datetime_as_string(value, unit).tolist()
    return [None if text == "NaT" else text for text in texts]


def _seconds(value: Any) -> list[object]:
    unit, step = sys.modules["numpy"].datetime_data(value.dtype)
    counts = value.astype("int64").tolist()
    if unit not in _SECONDS:
        if all(count == _NOT_A_TIME for count in counts):
            return [None] * len(counts)
        raise InvalidValueError(
            f"is a numpy timedelta64 of the unit {unit}, which is not a number of seconds; "
            "send it as a number (astype(int))"
        )
    times, parts = _SECONDS[unit]
    return [None if count == _NOT_A_TIME else count * step * times / parts for count in counts]
