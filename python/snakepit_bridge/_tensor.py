"""Arrays of numbers: numpy's where it is there, and what stands for them where it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Union

from snakepit_bridge._invalid import InvalidValueError

#: The struct code of each dtype.
DTYPES = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}


class Tensor:
    """An array: its dtype's name, its shape, and its elements, little-endian and row-major.

    An argument is one where numpy is not installed; a command may return one.
    """

    __slots__ = ("data", "dtype", "shape")

    def __init__(
        self, dtype: str, shape: Sequence[int], data: Union[bytes, bytearray, memoryview]
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
        self.dtype = dtype
        self.shape = tuple(shape)
        self.data = memoryview(data).cast("B") if len(data) else memoryview(b"")
        wanted = math.prod(self.shape) * item_size(dtype)
        if self.data.nbytes != wanted:
            raise ValueError(
                f"a tensor of {dtype} and shape {self.shape} has {wanted} bytes, "
                f"not {self.data.nbytes}"
            )

    def __repr__(self) -> str:
        return f"<Tensor {self.dtype} {self.shape}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        return (self.dtype, self.shape, self.data) == (other.dtype, other.shape, other.data)

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> Any:
        """The elements in nested lists, as numpy's `tolist` has them."""
        import struct

        count = math.prod(self.shape)
        return nested(struct.unpack(f"<{count}{DTYPES[self.dtype]}", self.data), self.shape)


def nested(elements: Sequence[Any], shape: Sequence[int]) -> Any:
    """Elements in row-major order as nested lists of a shape."""
    items = list(elements)
    for side in reversed(shape[1:]):
        if not side:
            return _empty(shape)
        items = [items[start : start + side] for start in range(0, len(items), side)]
    return items if shape else items[0]


def _empty(shape: Sequence[int]) -> list[Any]:
    return [_empty(shape[1:]) for _ in range(shape[0])] if shape[1:] else []


def item_size(dtype: str) -> int:
    import struct

    return struct.calcsize(f"<{DTYPES[dtype]}")


def array(dtype: str, shape: Sequence[int], data: memoryview) -> Any:
    """A read-only numpy array over `data`, or a `Tensor` where numpy is not installed."""
    tensor = Tensor(dtype, shape, data)
    try:
        import numpy  # type: ignore[import-not-found,unused-ignore]  # noqa: ICN001
    except ImportError:
        return tensor
    return numpy.ndarray(tensor.shape, numpy.dtype(dtype).newbyteorder("<"), tensor.data)


def of_array(array: Any) -> object:
    """A numpy array of numbers as a `Tensor`."""
    name = array.dtype.name
    if name not in DTYPES:
        raise InvalidValueError(
            f"is a numpy array of dtype {array.dtype}, which cannot be sent; "
            f"the dtypes that can are {', '.join(DTYPES)}"
        )
    contiguous = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    data = contiguous.reshape(-1).data.cast("B") if array.size else b""
    return Tensor(name, array.shape, data)
