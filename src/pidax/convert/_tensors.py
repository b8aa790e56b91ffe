"""Tensors as NumPy arrays: views of the file's bytes, inside their storage or refused.

A storage is a row of numbers; a tensor is an offset, a shape and strides on one, and
several tensors may share it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ._error import bad
from ._nodes import Name, Persistent

_KINDS = {
    "Float": "<f4",
    "Half": "<f2",
    "Double": "<f8",
    "BFloat16": ml_dtypes.bfloat16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
STORAGES = {f"torch.{kind}Storage": np.dtype(dtype) for kind, dtype in _KINDS.items()}
STORAGE_NAMES = dict.fromkeys(STORAGES, "type")
_RANK = 32
_MANY = 2**59  # NumPy multiplies the lengths of an empty array too, without the zeros


@dataclass(frozen=True)
class Label:
    """What a pickle says of a storage whose bytes are elsewhere in the file."""

    dtype: np.dtype
    key: str
    length: int


def label(pid: Persistent) -> Label:
    """The label in ('storage', type, key, location, length[, None])."""
    match pid.words:
        case ("storage", Name() as kind, str(key), str(), length, *view) if (
            kind.text in STORAGES and is_count(length) and view in ([], [None])
        ):
            return Label(STORAGES[kind.text], key, length)
    raise bad("a persistent id that names a storage", "another")


def storage(dtype: np.dtype, data: memoryview) -> np.ndarray:
    """Bytes as a row of numbers."""
    row = np.ndarray((len(data) // dtype.itemsize,), dtype, data)
    check_bools(row)
    return row


def check_bools(row: np.ndarray) -> None:
    """A bool that is neither 0 nor 1 would be true or false as it pleases."""
    if row.dtype == bool and row.size and row.view(np.uint8).max() > 1:
        raise bad("bools that are 0 or 1", "other bytes")


def tensor(row: np.ndarray, args: tuple[Any, ...]) -> np.ndarray:
    """The view of a storage that (offset, shape, strides, ...) says."""
    offset, shape, strides = args
    tuples = type(shape) is tuple and type(strides) is tuple
    if not tuples or not all(map(is_count, (offset, *shape, *strides))):
        raise bad("an offset, a shape and strides of whole numbers", "others")
    if len(shape) != len(strides) or len(shape) > _RANK:
        got = f"{len(shape)} and {len(strides)}"
        raise bad(f"a shape and strides of one length, at most {_RANK}", got)
    size = math.prod(shape)
    if not fits(shape) or size > row.size:
        raise bad(f"a tensor of at most its storage's {row.size} numbers", shape)
    if size == 0:
        if offset > row.size:
            raise bad(f"an offset within {row.size} numbers", offset)
        return np.empty(shape, row.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= row.size:
        got = f"offset {offset}, shape {shape}, strides {strides}"
        raise bad(f"a tensor inside its storage's {row.size} numbers", got)
    # A length of one is never stepped over, whatever stride a file gives it.
    steps = [0 if n == 1 else s for n, s in zip(shape, strides, strict=True)]
    view = np.lib.stride_tricks.as_strided(
        row[offset:], shape, [step * row.itemsize for step in steps], writeable=False
    )
    return view


def is_count(value: Any) -> bool:
    """A whole number that may be a length, an offset or a stride."""
    return type(value) is int and 0 <= value < _MANY


def fits(shape: Sequence[int]) -> bool:
    """Whether NumPy can have an array of this shape, which may be empty."""
    return len(shape) <= _RANK and math.prod(max(n, 1) for n in shape) < _MANY
