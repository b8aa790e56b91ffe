"""Arrays in a file that any framework reads: the safetensors format.

    length of the header, 8 bytes | header, JSON | arrays, little-endian, row by row

The header gives each array's dtype, shape and bytes, and a dict of strings about the
whole. The arrays follow each other without gaps. Written with the widest numbers
first, so that each begins at a multiple of its size.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from .._files import (
    HEADER,
    NAME,
    NAMES,
    FileName,
    bad,
    fits,
    is_count,
    quote,
    read_header,
    write_whole,
)
from ._objects import check_bools

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}
_METADATA = "__metadata__"


def write_safetensors(
    path: FileName, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `arrays`, of NumPy or JAX, to the file `path`, with strings about them.

    The file appears whole or not at all: a failure leaves what was there before.
    """
    metadata = dict(metadata or {})
    if not all(type(text) is str for pair in metadata.items() for text in pair):
        raise ValueError(
            "write_safetensors expects metadata of strings by strings, got others. "
            "Write them as text, with json.dumps for one."
        )
    whole = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in whole.items():
        if array.dtype.name not in _CODES or name == _METADATA or len(name) > NAME:
            raise ValueError(
                f"write_safetensors expects arrays of {', '.join(_CODES)}, by names of "
                f"at most {NAME} characters other than {_METADATA}, got {array.dtype} "
                f"by the name {name[:NAME]!r}. Convert or rename it."
            )
    order = sorted(whole, key=lambda name: -whole[name].itemsize)
    places, size = {}, 0
    for name in order:
        places[name] = [size, size + whole[name].nbytes]
        size += whole[name].nbytes
    header = {_METADATA: metadata} if metadata else {}
    header |= {
        name: {
            "dtype": _CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": places[name],
        }
        for name, array in whole.items()
    }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER:
        raise ValueError(
            f"write_safetensors expects names and metadata of at most {HEADER} bytes, "
            f"got {len(text)}. Write fewer arrays to a file, or less about them."
        )
    chunks = _chunks(text, [whole[name] for name in order])
    write_whole(path, chunks, "write_safetensors")


def _chunks(header: bytes, arrays: list[np.ndarray]) -> Iterator[Any]:
    """The file, an array at a time: each may need a copy."""
    yield len(header).to_bytes(8, "little") + header
    for array in arrays:
        little = _DTYPES[_CODES[array.dtype.name]]
        row = np.ascontiguousarray(array.astype(little, copy=False))
        yield row.reshape(-1).view(np.uint8).data


def parse_safetensors(
    data: memoryview,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays, as views, and the metadata of a file's bytes."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(HEADER, len(data) - 8):
        got = f"one of {length} in a file of {len(data)}"
        raise bad(f"a header of at most {HEADER} bytes", got)
    header = read_header(bytes(data[8 : 8 + length]))
    metadata = header.pop(_METADATA, {})
    if type(metadata) is not dict or not all(
        type(value) is str for value in metadata.values()
    ):
        raise bad(f"strings in {_METADATA}", "others")
    if len(header) > NAMES:
        raise bad(f"at most {NAMES} arrays", len(header))
    return dict(_views(header, data[8 + length :])), metadata


def _views(
    header: dict[str, Any], data: memoryview
) -> Iterator[tuple[str, np.ndarray]]:
    """Every array in its place: together they fill the data, and none overlap."""
    places = []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        size = math.prod(shape) * dtype.itemsize
        if end - begin != size or end > len(data):
            got = f"bytes {begin} to {end} of {len(data)}"
            raise bad(f"{size} bytes for {quote(name)}, inside the file", got)
        places.append((begin, end))
        # An empty array may lie at the very end, where there is no byte to view.
        row = np.ndarray((math.prod(shape),), dtype, data[begin:end])
        check_bools(row)
        yield name, row.reshape(shape)
    at = 0
    for begin, end in sorted(places):
        if begin != at:
            raise bad("arrays without gaps or overlaps", f"one at {begin}, not {at}")
        at = end
    if at != len(data):
        raise bad("arrays up to the end of the file", f"{len(data) - at} more bytes")


def _entry(name: str, entry: Any) -> tuple[np.dtype, list[int], int, int]:
    if len(name) > NAME:
        raise bad(f"names of at most {NAME} characters", f"{quote(name)}...")
    match entry:
        case {
            "dtype": str(code),
            "shape": list(shape),
            "data_offsets": [begin, end],
        } if len(entry) == 3:
            pass
        case _:
            raise bad(f"dtype, shape and data_offsets of {quote(name)}", "others")
    if code not in _DTYPES:
        raise bad(f"a dtype of {', '.join(_DTYPES)} for {quote(name)}", quote(code))
    counts = all(is_count(n) for n in (begin, end, *shape))
    if not counts or not fits(shape) or begin > end:
        expected = f"a shape and offsets of whole numbers for {quote(name)}"
        raise bad(expected, "others, or too large ones")
    return _DTYPES[code], shape, begin, end
