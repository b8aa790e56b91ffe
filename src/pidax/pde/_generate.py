"""Samples of an equation: in memory, or in a directory, resumable.

    sample i = solve(draw(fold_in(key, i)))

in float64, whatever the session's precision; stored as float32, with the residuals
before and after rounding. A sample depends on the key and its index only, so batches
may be made in any number of runs.
"""

import io
import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import require_whole
from .._files import LEFTOVERS, LOCK, lock_directory, write_whole
from .._progress import advance, progress_bar
from ..types import Key
from ._dataset import (
    AGAIN,
    ARRAYS,
    CHECKSUMS,
    FIELDS,
    FORMAT,
    HEADER,
    READ,
    RESIDUALS,
    Dataset,
    Header,
    channel_names,
    header_hash,
    made_of,
    read_header,
    require_same,
    require_undamaged,
    sample_checksums,
    stored,
)
from ._equation import AbstractEquation, FieldsT, Values, batched
from ._float64 import in_double
from ._normaliser import Normaliser


def draw(
    equation: AbstractEquation[FieldsT], n: int, *, key: Key, batch_size: int = 64
) -> FieldsT:
    """A batch of `n` samples in memory: the fields, with the sample as the first axis.

    The same samples that `generate` stores, before rounding: solved in float64 and
    returned in default precision, `batch_size` at a time.
    """
    require_whole(n=n, batch_size=batch_size)
    parts = []
    for start in range(0, n, batch_size):
        rows = np.arange(start, start + min(n, batch_size), dtype=np.int32)
        found = _numbered(_drawn_in_double, equation, key, rows)
        parts.append(jax.tree.map(lambda a: a[: n - start], found))  # noqa: B023
    return jax.tree.map(lambda *some: jnp.concatenate(some), *parts)


def generate(
    equation: AbstractEquation[FieldsT],
    n: int,
    *,
    key: Key,
    path: str | os.PathLike[str],
    batch_size: int = 64,
    progress: bool = True,
) -> Dataset[FieldsT]:
    """Draw and solve `n` samples into the directory `path`; a `Dataset` of them.

    An interrupted run continues when it is called again, to bit-identical files. A
    complete dataset is opened. A larger `n` extends it. Refused are another equation or
    key, a sample that is not finite (stored samples stay), a directory to which another
    process is writing, and files that disagree with the header.

    **Arguments:**

    - `key`: sample i is drawn with `jax.random.fold_in(key, i)`, and does not depend on
      `n` nor, except for rounding, on `batch_size`.
    - `batch_size`: the number of samples solved together, held in memory in float64
      with everything that the solver needs.
    - `progress`: show a bar of the samples.

    The code of `equation` is not checked, only its class and its fields: if you change
    a method, make the dataset again.
    """
    require_whole(n=n, batch_size=batch_size)
    path = Path(path)
    _require_place(path)
    if (path / HEADER).exists():
        header = _read(path, equation, n, key)
        if header["n"] == n and header["statistics"] is not None:
            return Dataset(path, header, equation)
    path.mkdir(parents=True, exist_ok=True)
    with lock_directory(path):
        header = _begin(path, equation, n, key)
        _go_on(path, header, equation, key, batch_size, progress)
        _finish(path, header)
    return Dataset(path, header, equation)


def _require_place(path: Path) -> None:
    """Check that the directory is new, a dataset, or was left before its header."""
    if not path.exists() or (path / HEADER).exists():
        return
    known = {path / LOCK, *path.glob(LEFTOVERS)}
    if not path.is_dir() or set(path.iterdir()) - known:
        raise FileExistsError(
            f"generate expects a directory that is new or a dataset, got {path}, "
            "which is neither. Take another path."
        )


def _read(path: Path, equation: AbstractEquation, n: int, key: Key) -> Header:
    """The header of what is there, which is of this equation and key."""
    header = read_header(path)
    require_same(header["made_of"], made_of(equation, key), path)
    if n < header["done"]:
        raise ValueError(
            f"{path} must hold no more samples than requested, got n={n} and "
            f"{header['done']} in it. Open it and take some: px.pde.open(path)[:{n}]."
        )
    return header


def _begin(path: Path, equation: AbstractEquation, n: int, key: Key) -> Header:
    """The header of what is there, with `n` for its size, or a new one."""
    if (path / HEADER).exists():
        header = _read(path, equation, n, key)
        for name in ARRAYS if header["done"] else ():
            _require_size(path / name, header)
        header |= {"n": n, "statistics": None, "versions": _versions(header)}
        _write(path, header)  # before the arrays, so that no half of it looks whole
        return header
    header = {
        "format": FORMAT,
        "name": type(equation).__name__,
        "fields": list(equation.names),
        "grid": repr(equation.grid),
        "n": n,
        "done": 0,
        "statistics": None,
        "made_of": made_of(equation, key),
        "versions": _versions({}),
    }
    _write(path, header)
    return header


def _versions(header: Header) -> dict[str, str]:
    """The versions that make samples now, and those that made existing ones."""
    now = {name: version(name) for name in ("pidax", "jax", "numpy")}
    now["python"] = platform.python_version()
    for name, before in header.get("versions", {}).items():
        if now.get(name) not in before.split(" and "):
            now[name] = f"{before} and {now.get(name)}"
        else:
            now[name] = before
    return now


def _go_on(
    path: Path,
    header: Header,
    equation: AbstractEquation,
    key: Key,
    batch_size: int,
    progress: bool,
) -> None:
    """Batch after batch, from the position in the header."""
    n, done = header["n"], header["done"]
    with progress_bar(n, header["name"], "sample", progress, done) as bar:
        # Batches begin at multiples of their size and are computed whole: a sample has
        # the same neighbours, so the same bits, in however many goes they are made.
        for start in range(done - done % batch_size, n, batch_size):
            rows = np.arange(start, start + batch_size, dtype=np.int32)
            found = _numbered(_stored_in_double, equation, key, rows)
            part = slice(done - start, n - start)
            fields, residuals = (np.asarray(a, np.float32)[part] for a in found)
            header["shape"] = list(fields.shape[1:])
            header["channels"] = channel_names(equation, fields.shape[-1])
            _require_finite(fields, done, header)
            _put(path / FIELDS, done, fields, n)
            _put(path / RESIDUALS, done, residuals, n)
            _put(path / CHECKSUMS, done, sample_checksums(fields, residuals), n)
            advance(bar, len(fields))
            done = header["done"] = done + len(fields)
            _write(path, header)


def _drawn(equation: AbstractEquation, key: Key, rows: np.ndarray) -> Values:
    return batched(equation, jax.vmap(lambda i: jax.random.fold_in(key, i))(rows))


def _stored(equation: AbstractEquation, key: Key, rows: np.ndarray) -> Any:
    """Stacked fields in float32, and relative residuals before and after rounding."""
    fields = _drawn(equation, key, rows)
    stacked = jax.vmap(equation.stack)(fields).astype(jnp.float32)
    dtype = jnp.result_type(float)
    rounded = jax.vmap(equation.unstack)(stacked.astype(dtype))
    both = [jax.vmap(equation.relative_residual)(some) for some in (fields, rounded)]
    return stacked, jnp.stack(both, axis=-1)


_stored_in_double, _drawn_in_double = in_double(_stored), in_double(_drawn)


def _numbered(make: Any, equation: AbstractEquation, key: Key, rows: np.ndarray) -> Any:
    """`make(...)`, with the numbers of the samples in its errors."""
    try:
        return jax.tree.map(np.asarray, make(equation, key, rows))
    except (ValueError, RuntimeError) as error:
        error.add_note(
            f"It came with samples {rows[0]} to {rows[-1]} of {type(equation).__name__}"
            ". Sample i alone is equation.sample(key=jax.random.fold_in(key, i))."
        )
        raise


def _require_finite(fields: np.ndarray, first: int, header: Header) -> None:
    bad = ~np.isfinite(fields)
    if not bad.any():
        return
    i = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
    channels = np.flatnonzero(bad[i].reshape(-1, bad.shape[-1]).any(axis=0))
    names = ", ".join(header["channels"][c] for c in channels)
    raise ValueError(
        f"all fields must be finite, got NaN or infinite entries in {names} of sample "
        f"{first + i} of {header['name']}. Look at it with equation.sample(key="
        f"jax.random.fold_in(key, {first + i})); the {first} samples before are kept."
    )


def _npy_head(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """How a .npy file begins. NumPy leaves room: it is as long for any length."""
    head = io.BytesIO()
    about = np.lib.format.header_data_from_array_1_0(np.zeros(0, dtype))
    about["shape"] = shape
    np.lib.format.write_array_header_1_0(head, about)
    return head.getvalue()


def _require_size(path: Path, header: Header) -> None:
    """A file in the making has room for all samples that are said to be in it."""
    dtype, shape = ARRAYS[path.name]
    shape = (header["done"], *(header["shape"] if shape is None else shape))
    least = len(_npy_head(dtype, shape)) + math.prod(shape) * dtype.itemsize
    size = path.stat().st_size if path.exists() else 0
    if size < least:
        raise ValueError(
            f"{path} must hold the first {header['done']} samples, {least} bytes, as "
            f"its header says, got {size} bytes. {AGAIN}"
        )


def _put(path: Path, start: int, rows: np.ndarray, total: int) -> None:
    """Rows from `start` on into a .npy file whose header says `total` of them."""
    head = _npy_head(rows.dtype, (total, *rows.shape[1:]))
    with open(path, "r+b" if start else "wb") as file:
        file.write(head)
        file.seek(start * math.prod(rows.shape[1:]) * rows.itemsize, io.SEEK_CUR)
        file.write(np.ascontiguousarray(rows).tobytes())
        if start + len(rows) == total:
            file.truncate()  # of what a longer run had begun
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, header: Header) -> None:
    said = header | {"sha256": header_hash(header)}
    text = json.dumps(said, indent=1, allow_nan=False) + "\n"
    write_whole(path / HEADER, [text.encode()], "generate")


def _finish(path: Path, header: Header) -> None:
    """Look through the whole of it, some samples at a time, and say what it is."""
    for name, (dtype, shape) in ARRAYS.items():
        row = header["shape"] if shape is None else shape
        _put(path / name, header["n"], np.zeros((0, *row), dtype), header["n"])
    require_undamaged(path, header)
    fields = stored(path, header, FIELDS)
    step = max(1, READ // int(np.prod(header["shape"])))
    parts = [fields[i : i + step] for i in range(0, len(fields), step)]
    axes = tuple(range(fields.ndim - 1))
    size = fields[..., 0].size
    total = [p.sum(axis=axes, dtype=np.float64) for p in parts]
    mean = np.sum(total, axis=0) / size
    square = np.sum([np.square(p - mean).sum(axis=axes) for p in parts], axis=0) / size
    least = np.min([p.min(axis=axes) for p in parts], axis=0)
    greatest = np.max([p.max(axis=axes) for p in parts], axis=0)
    normaliser = Normaliser.of_moments(mean, np.sqrt(square))
    rows = zip(mean, np.sqrt(square), least, greatest, strict=True)
    kinds = ("mean", "std", "min", "max")
    header["statistics"] = {
        name: dict(zip(kinds, map(float, row), strict=True))
        for name, row in zip(header["channels"], rows, strict=True)
    }
    header["normaliser"] = {
        "mean": list(normaliser.mean),
        "std": list(normaliser.std),
    }
    residuals = stored(path, header, RESIDUALS)
    header["residual"] = {
        name: {
            "median": float(np.median(values)),
            "p99": float(np.quantile(values, 0.99)),
        }
        for name, values in zip(("solved", "stored"), residuals.T, strict=True)
    }
    _write(path, header)
