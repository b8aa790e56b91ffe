"""Samples of an equation in a directory: read without loading them all.

    header.json      equation, key, versions, statistics, residuals
    fields.npy       float32, "sample *grid channel", in physical units
    residuals.npy    float32, "sample 2": relative residuals, as solved and as stored
    checksums.npy    uint32, "sample": CRC-32 of a sample's fields and residuals

The arrays are ordinary NumPy files, memory-mapped and read on access. `generate` writes
them. The sizes of the files and the SHA-256 of the header are checked when a dataset is
opened, the checksums of the samples by `Dataset.verify`.
"""

import hashlib
import json
import os
import zlib
from collections import namedtuple
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._checks import require_whole
from ..store import describe, differences
from ..types import Key
from ._equation import AbstractEquation, FieldsT
from ._evolution import AbstractEvolution
from ._normaliser import Normaliser

FORMAT = 2
HEADER = "header.json"
FIELDS, RESIDUALS, CHECKSUMS = "fields.npy", "residuals.npy", "checksums.npy"
READ = 1 << 24  # numbers of a dataset held at once when all of it is looked through
AGAIN = "Copy the dataset again, or delete the directory and generate it anew."
Header = dict[str, Any]
Rows = Float[np.ndarray, "sample *grid channel"]


class Dataset(Generic[FieldsT]):
    """What `generate` stored; `len`, indices and slices are of samples.

        data = px.pde.open("data/darcy")
        data[:100]                   # stacked, "sample *grid channel", physical units
        data.fields(7).solution      # one sample's fields by name
        px.fit(..., data=data.batches(64, key=key), batch_size=64)     # normalised
        print(data)                  # equation, statistics, residual floor, versions

    `data.array` is the mapped file itself, `data.normaliser` fitted to all of it.
    """

    def __init__(
        self, path: Path, header: Header, equation: AbstractEquation[FieldsT] | None
    ):
        self.path, self.header, self.equation = path, header, equation
        self.channels: tuple[str, ...] = tuple(header["channels"])
        self.normaliser = Normaliser(**header["normaliser"])
        self.array: Rows = stored(path, header, FIELDS)
        for name in (RESIDUALS, CHECKSUMS):
            stored(path, header, name)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(self.array[index])  # read now, and not a view of the file

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: `(*grid, channel)`."""
        return self.array.shape[1:]

    @cached_property
    def residuals(self) -> dict[str, Float[np.ndarray, " sample"]]:
        """The relative residual of every sample, `solved` (float64) and `stored`."""
        values = np.array(stored(self.path, self.header, RESIDUALS))
        return {"solved": values[:, 0], "stored": values[:, 1]}

    @property
    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean, standard deviation, least and greatest value of each channel."""
        return self.header["statistics"]

    def verify(self) -> None:
        """Read every sample, and raise if one differs from what `generate` stored.

        Reads all files once, at the speed of the disk.
        """
        require_undamaged(self.path, self.header)

    def fields(self, index: Any) -> FieldsT:
        """The fields by name of one sample, or of a slice of them.

        They are the equation's own `Fields` if the dataset was opened with it,
        otherwise the channels by the same names. If channels are not fields (but rows
        of time, say) the equation is needed.
        """
        stacked = self[index]
        names = self.header["fields"]
        if self.equation is None and names != list(self.channels):
            raise ValueError(
                f"the channels of {self.header['name']} are not its fields "
                f"{', '.join(names)}: to tell these apart takes the equation, got "
                "none. Open the dataset with it: px.pde.open(path, equation)."
            )
        if self.equation is None:
            unnamed: Any = namedtuple("Fields", names)
            return unnamed(*np.moveaxis(stacked, -1, 0))
        unstack: Any = self.equation.unstack
        for _ in range(stacked.ndim - len(self.shape)):
            unstack = jax.vmap(unstack)
        return unstack(jnp.asarray(stacked))

    def normalised(self, index: Any = slice(None)) -> Rows:
        """Samples as numbers of size one, for the training of a diffusion model."""
        return np.asarray(self.normaliser.normalise(self[index]))

    def batches(
        self, batch_size: int, *, key: Key, normaliser: Normaliser | None = None
    ) -> Callable[[int], Rows]:
        """Normalised batches by step, for `px.fit(data=...)`.

        Every epoch has its own order, a function of the key, so a resumed run sees the
        same batches. Only the rows of a batch are read. `normaliser` replaces the
        dataset's own.
        """
        require_whole(batch_size=batch_size)
        chosen = self.normaliser if normaliser is None else normaliser
        seed = [int(word) for word in np.ravel(jax.random.key_data(key))]
        orders: dict[int, np.ndarray] = {}

        def order(epoch: int) -> np.ndarray:
            if epoch not in orders:
                orders.clear()
                generator = np.random.default_rng([*seed, epoch])
                orders[epoch] = generator.permutation(len(self))
            return orders[epoch]

        def batch(step: int) -> Rows:
            places = step * batch_size + np.arange(batch_size)
            epochs, offsets = np.divmod(places, len(self))
            rows = [order(e)[offsets[epochs == e]] for e in np.unique(epochs).tolist()]
            return np.asarray(chosen.normalise(self[np.concatenate(rows)]))

        return batch

    def __str__(self) -> str:
        head, floor = self.header, self.header["residual"]
        size = sum((self.path / name).stat().st_size for name in ARRAYS)
        lines = [
            f"{len(self)} samples of {head['name']} in {self.path}, {size / 1e6:.3g} "
            f"MB of float32{list(self.shape)}",
            head["grid"],
            f"{'':<16}{'mean':>12}{'std':>12}{'least':>12}{'greatest':>12}",
        ]
        known = list(self.statistics.items())
        for name, some in known if len(known) < 9 else [*known[:4], *known[-4:]]:
            cells = "".join(f"{value:>12.4g}" for value in some.values())
            lines.append(f"{name:<16}{cells}")
        lines.append(f"{'relative residual':<16}{'median':>11}{'99%':>12}")
        for name, label in (("solved", "float64"), ("stored", "as stored")):
            median, p99 = floor[name]["median"], floor[name]["p99"]
            lines.append(f"{label:<16}{median:>12.2g}{p99:>12.2g}")
        made = ", ".join(f"{name} {text}" for name, text in head["versions"].items())
        return "\n".join([*lines, f"made by {made}"])

    def __repr__(self) -> str:
        return f"<{len(self)} samples of {self.header['name']} in {str(self.path)!r}>"


def open(
    path: str | os.PathLike[str],
    equation: AbstractEquation[FieldsT] | None = None,
    *,
    verify: bool = False,
) -> Dataset[FieldsT]:
    """Open the dataset that `generate` wrote to the directory `path`.

    With `equation`, it is checked that the samples are of this equation, and
    `fields(i)` are its own. Missing files, and files of another size than the header
    says, are errors. `verify=True` reads every sample too (`Dataset.verify`).
    """
    path = Path(path)
    header = read_header(path)
    if equation is not None:
        require_same(header["made_of"], made_of(equation), path)
    if header["done"] < header["n"] or header["statistics"] is None:
        raise ValueError(
            f"{path} must be a whole dataset, got {header['done']} of {header['n']} "
            "samples: its generation was interrupted, or goes on. Call generate again "
            "with the same equation, n, key and path: it goes on where it was."
        )
    dataset = Dataset(path, header, equation)
    if verify:
        dataset.verify()
    return dataset


def read_header(path: Path) -> Header:
    """The header of the directory, as it was written."""
    if not (path / HEADER).is_file():
        raise FileNotFoundError(
            f"a dataset is a directory with the file {HEADER}, got {path}. "
            "px.pde.generate makes one."
        )
    try:
        header = json.loads((path / HEADER).read_text(encoding="utf-8"))
        number = header.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path / HEADER} must be the header of a dataset, in JSON, got {error}. "
            f"{AGAIN}"
        ) from error
    if number != FORMAT:
        raise ValueError(
            f"{path} must have format {FORMAT}, got {number}. Read it with the pidax "
            f"that made it ({header.get('versions')}), or make it again."
        )
    if header.pop("sha256", None) != header_hash(header):
        raise ValueError(
            f"{path / HEADER} must be as it was written, got a header whose SHA-256 is "
            f"another than it says. {AGAIN}"
        )
    return header


def header_hash(header: Header) -> str:
    """The SHA-256 of the contents of a header."""
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# For each file the dtype and the shape of one sample; None is the shape of the fields.
ARRAYS = {
    FIELDS: (np.dtype(np.float32), None),
    RESIDUALS: (np.dtype(np.float32), (2,)),
    CHECKSUMS: (np.dtype(np.uint32), ()),
}


def stored(path: Path, header: Header, name: str) -> np.ndarray:
    """One of the arrays, mapped into memory, of the size that the header says."""
    dtype, shape = ARRAYS[name]
    expected = (header["n"], *(header["shape"] if shape is None else shape))
    try:
        array = np.load(path / name, mmap_mode="r")
        size = (path / name).stat().st_size
    except (OSError, ValueError, EOFError) as error:
        got: Any = f"{type(error).__name__}: {error}"
    else:
        got = f"{array.dtype}{list(array.shape)} in {size} bytes"
        whole = isinstance(array, np.memmap) and size == array.offset + array.nbytes
        if whole and (array.dtype, array.shape) == (dtype, expected):
            return array
    raise ValueError(
        f"{path / name} must hold {dtype}{list(expected)}, as its header says, got "
        f"{got}. {AGAIN}"
    )


def sample_checksums(fields: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """The CRC-32 of each sample's bytes."""
    rows = zip(fields, residuals, strict=True)
    found = [zlib.crc32(r.tobytes(), zlib.crc32(f.tobytes())) for f, r in rows]
    return np.asarray(found, np.uint32)


def require_undamaged(path: Path, header: Header) -> None:
    """Every sample has the checksum that it was stored with."""
    arrays = [stored(path, header, name) for name in ARRAYS]
    step = max(1, READ // int(np.prod(header["shape"])))
    damaged: list[int] = []
    for start in range(0, header["n"], step):
        *samples, said = (array[start : start + step] for array in arrays)
        wrong = sample_checksums(*samples) != said
        damaged += (start + np.flatnonzero(wrong)).tolist()
    if damaged:
        raise ValueError(
            f"{path} must hold what was stored in it, got {len(damaged)} of "
            f"{header['n']} samples with another checksum, the first of them "
            f"{damaged[:5]}. {AGAIN}"
        )


def channel_names(equation: AbstractEquation, count: int) -> list[str]:
    """The names of the channels of the stacked array: the fields, or the last one's
    rows.

    An equation may stack its solution alone, whose first row in time is given.
    """
    later = equation.unknowns
    if isinstance(equation, AbstractEvolution) and len(later) > 1:
        rows = range(count // len(later))
        line = count == len(later)
        return list(later) if line else [f"{n} {i}" for i in rows for n in later]
    if count == len(equation.names):
        return list(equation.names)
    last = equation.names[-1]
    return [last] if count == 1 else [f"{last} {i}" for i in range(count)]


def made_of(equation: AbstractEquation, key: Key | None = None) -> dict[str, str]:
    """The arguments that determine the samples, in words."""
    said = describe(equation, "equation", values=True)
    return said if key is None else said | describe(key, "key", values=True)


def require_same(saved: dict[str, str], now: dict[str, str], path: Path) -> None:
    """Check that all values in `now` equal those at the start of the dataset."""
    if "key" not in now:
        saved = {name: text for name, text in saved.items() if name != "key"}
    found = differences(saved, now, str(path))
    if found:
        raise ValueError(
            f"{path} must be a dataset of this equation and key, got another: "
            f"{'; '.join(found)}. Take another path, or delete this one."
        )
