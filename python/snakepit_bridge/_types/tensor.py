"""Tensors: arrays of numbers, which are numpy arrays if numpy is installed."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NoReturn, Optional, Union

from snakepit_bridge._types.invalid import InvalidValueError

#: For each dtype, the size of an element in bytes, and the struct code of it or of its parts.
DTYPES = {
    "bool": (1, "?"),
    "int8": (1, "b"),
    "int16": (2, "h"),
    "int32": (4, "i"),
    "int64": (8, "q"),
    "uint8": (1, "B"),
    "uint16": (2, "H"),
    "uint32": (4, "I"),
    "uint64": (8, "Q"),
    "float16": (2, "e"),
    "float32": (4, "f"),
    "float64": (8, "d"),
    "bfloat16": (2, ""),
    "float8_e4m3fn": (1, ""),
    "float8_e5m2": (1, ""),
    "complex64": (8, "f"),
    "complex128": (16, "d"),
}
#: The dtypes that the package `ml_dtypes` adds to numpy.
ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


class Tensor:
    """An array: the name of its dtype, its shape, and its elements, little-endian and row-major.

    A tensor argument arrives as a `Tensor` if numpy is not installed; one of bfloat16 or float8
    also if ml_dtypes is not installed. A command may return a `Tensor`.

    Raises a `ValueError` for an unknown dtype, and if the size of `data` does not match the shape.
    """

    __slots__ = ("data", "dtype", "shape")

    def __init__(
        self, dtype: str, shape: Sequence[int], data: Union[bytes, bytearray, memoryview]
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"expected dtype to be one of {', '.join(DTYPES)}, got {dtype!r}")
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

    def __getattr__(self, name: str) -> NoReturn:
        # `copy` and `pickle` read attributes of an instance that is not initialized yet.
        dtype = name if name in Tensor.__slots__ else self.dtype
        wanted = "numpy and ml_dtypes are" if dtype in ML_DTYPES else "numpy is"
        raise AttributeError(
            f"a snakepit_bridge.Tensor has no {name!r}; "
            f"an argument of {dtype} is a numpy array where {wanted} installed (pip install)"
        )

    def tolist(self) -> Any:
        """Returns the elements in nested lists, like numpy's `tolist`."""
        return nested(_elements(self.dtype, self.data), self.shape)


def nested(elements: Sequence[Any], shape: Sequence[int]) -> Any:
    """Returns elements in row-major order as nested lists of a shape."""
    items = list(elements)
    for side in reversed(shape[1:]):
        if not side:
            return _empty(shape)
        items = [items[start : start + side] for start in range(0, len(items), side)]
    return items if shape else items[0]


def _elements(dtype: str, data: memoryview) -> list[Any]:
    size, code = DTYPES[dtype]
    if dtype == "float8_e4m3fn":
        return [_float8_e4m3fn(byte) for byte in data]
    if dtype in ("bfloat16", "float8_e5m2"):
        # These types are the upper halves of float32 and float16.
        wide = bytearray(2 * len(data))
        for byte in range(size):
            wide[size + byte :: 2 * size] = bytes(data[byte::size])
        return _elements({"bfloat16": "float32", "float8_e5m2": "float16"}[dtype], memoryview(wide))
    count = len(data) // struct.calcsize(f"<{code}")
    items = struct.unpack(f"<{count}{code}", data)
    return list(map(complex, items[::2], items[1::2]) if "complex" in dtype else items)


def _float8_e4m3fn(byte: int) -> float:
    exponent, fraction = byte >> 3 & 15, byte & 7
    value = math.ldexp(8 + fraction, exponent - 10) if exponent else math.ldexp(fraction, -9)
    # All bits set means NaN.
    value = value if byte & 127 < 127 else math.nan  # noqa: PLR2004
    return -value if byte & 128 else value


def _empty(shape: Sequence[int]) -> list[Any]:
    return [_empty(shape[1:]) for _ in range(shape[0])] if shape[1:] else []


def item_size(dtype: str) -> int:
    """Returns the size of an element in bytes."""
    return DTYPES[dtype][0]


def array(dtype: str, shape: Sequence[int], data: memoryview) -> Any:
    """Returns a read-only numpy array over `data`, or a `Tensor` if numpy lacks that dtype."""
    tensor = Tensor(dtype, shape, data)
    try:
        import numpy  # type: ignore[import-not-found,unused-ignore]  # noqa: ICN001

        if dtype in ML_DTYPES:
            import ml_dtypes  # type: ignore[import-not-found,unused-ignore]

            known = numpy.dtype(getattr(ml_dtypes, dtype))
        else:
            known = numpy.dtype(dtype).newbyteorder("<")
    except (ImportError, AttributeError):
        return tensor
    except Exception as error:
        problem = f"has a tensor of {dtype}, whose package cannot be imported: {error!r}"
        raise InvalidValueError(problem) from error
    try:
        return numpy.ndarray(tensor.shape, known, tensor.data)
    except ValueError as error:
        raise InvalidValueError(f"has a tensor that numpy does not accept: {error}") from None


@functools.lru_cache(maxsize=256)
def dtype_name(dtype: Any) -> str:
    """Returns the name of a numpy dtype, which numpy puts together each time."""
    name: str = dtype.name
    return name


@functools.lru_cache(maxsize=256)
def dtype_in_memory(dtype: Any) -> Optional[str]:
    """Returns the name of a numpy dtype if the elements are in memory as they are sent."""
    name = dtype_name(dtype)
    # The dtypes of ml_dtypes have no code in Python's buffer protocol.
    known = name in DTYPES and name not in ML_DTYPES
    return name if known and dtype == dtype.newbyteorder("<") else None


def of_array(array: Any) -> Tensor:
    """Converts a numpy array of numbers to a `Tensor`."""
    name = dtype_name(array.dtype)
    if name not in DTYPES:
        raise InvalidValueError(
            f"is a numpy array of dtype {array.dtype}, which cannot be sent; "
            f"the supported dtypes are {', '.join(DTYPES)}"
        )
    contiguous = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    # The dtypes of ml_dtypes have no code in Python's buffer protocol.
    data = contiguous.ravel().view("uint8").data if array.size else b""
    return Tensor(name, array.shape, data)
