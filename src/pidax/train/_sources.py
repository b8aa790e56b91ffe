"""Sources of samples, their order, and their way to the devices.

Arrays (in memory, memory-mapped, or in a file that is read by slices) are visited in a
new random order in every epoch. A generator seeded with (key, e) gives the order of
epoch e, and step s takes rows s B .. s B + B - 1 of the concatenated epochs. So a
resumed run continues with the right row, without any stored state.

A run is divided into dispatches, which end where the host has work to do (a line of the
log, a checkpoint, a refresh). A thread prepares the batches of the next two.
"""

import abc
import contextlib
import dataclasses
import hashlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._devices import Place

_CONTAINERS = tuple | list | dict | eqx.Module
_HASHED = 2**28  # bytes; of larger arrays some rows are
_IN_MEMORY = 2**31  # bytes; larger arrays are checked batch by batch only


class AbstractSource(abc.ABC):
    """Batches by step, as NumPy arrays of the whole batch or of a part of it."""

    batch_size: int
    check: Callable[[PyTree], None] | None = None  # of a batch, by the objective

    @abc.abstractmethod
    def example(self) -> PyTree:
        """Arrays of samples to check an objective against."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What another run must have in common to be the same run."""

    @abc.abstractmethod
    def rows(self, step: int, part: slice) -> PyTree:
        """This part of the batch of this step."""

    def check_labels(self, batch: PyTree) -> None:
        """Let the objective check a batch with integers: labels may be out of range."""
        leaves = jax.tree.leaves(batch)
        integers = any(np.issubdtype(leaf.dtype, np.integer) for leaf in leaves)
        if integers and self.check is not None:
            self.check(batch)


class NoData(AbstractSource):
    """For objectives that need none."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size

    def example(self) -> PyTree:
        return None

    def describe(self) -> dict[str, Any]:
        return {"kind": "none"}

    def rows(self, step: int, part: slice) -> PyTree:
        return None


class ArrayData(AbstractSource):
    """A pytree of arrays, or of objects with row slices, with one row
    for each sample.
    """

    def __init__(self, arrays: PyTree, batch_size: int, seed: Any):
        shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(arrays)]
        if () in shapes or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(
                "data must be arrays whose first axis is the samples, all of one "
                f"length, got shapes {shapes}. Cut or repeat them to one length."
            )
        self.count = int(shapes[0][0])
        if self.count == 0:
            raise ValueError(
                f"data must hold at least one sample, got shapes {shapes}. Check how "
                "it was read."
            )
        self.arrays = jax.tree.map(
            lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, arrays
        )
        self.batch_size = batch_size
        self.seed = tuple(int(word) for word in np.ravel(seed))
        self.epochs: dict[int, np.ndarray] = {}
        leaves = jax.tree.leaves_with_path(self.arrays)
        self.in_files = not all(isinstance(leaf, np.ndarray) for _, leaf in leaves)
        for path, leaf in leaves:
            whole = isinstance(leaf, np.ndarray) and not isinstance(leaf, np.memmap)
            if whole and leaf.nbytes <= _IN_MEMORY:
                require_finite_data(leaf, jax.tree_util.keystr(path), "data")
        self.first = self.arrays
        if self.in_files:
            few = slice(min(batch_size, self.count))
            self.first = jax.tree.map(lambda a: np.asarray(a[few]), self.arrays)

    def example(self) -> PyTree:
        return self.first

    def describe(self) -> dict[str, Any]:
        leaves = jax.tree.leaves_with_path(self.arrays)
        return {
            "kind": "arrays",
            "shapes": [
                f"{jax.tree_util.keystr(path)}: {leaf.dtype}{list(leaf.shape)}"
                for path, leaf in leaves
            ],
            "content": [_digest(leaf) for _, leaf in leaves],
        }

    def rows(self, step: int, part: slice) -> PyTree:
        start = step * self.batch_size
        places = np.arange(start, start + self.batch_size)[part]
        epochs, offsets = np.divmod(places, self.count)
        index = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = self._order(int(epoch))[offsets[here]]
        batch = jax.tree.map(lambda a: take(a, index), self.arrays)
        if self.in_files:  # those in memory were checked at the start
            self.check_labels(batch)
        return batch

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self.epochs:
            generator = np.random.default_rng((*self.seed, epoch))
            self.epochs = {e: o for e, o in self.epochs.items() if e == epoch - 1}
            self.epochs[epoch] = generator.permutation(self.count)
        return self.epochs[epoch]


class StepData(AbstractSource):
    """A user's function of the step, or an iterable of batches, one for each step."""

    def __init__(self, data: Any, batch_size: int):
        self.batch_size = batch_size
        self.function: Callable[[int], PyTree] | None = None
        self.iterator: Iterator[PyTree] | None = None
        self.kept: tuple[int, PyTree] | None = None  # the last batch, and its step
        self.kinds: dict[str, Any] = {}
        self.iterable = None
        if callable(data):
            self.function = data
        else:
            self.iterable = data

    def example(self) -> PyTree:
        return self._batch(0)

    def describe(self) -> dict[str, Any]:
        return {"kind": "function of the step" if self.function else "iterator"}

    def rows(self, step: int, part: slice) -> PyTree:
        return jax.tree.map(lambda a: a[part], self._batch(step))

    def _batch(self, step: int) -> PyTree:
        if self.kept is None or self.kept[0] != step:
            batch = self.function(step) if self.function else self._next(step)
            # A copy: loaders like to fill one buffer again and again.
            batch = jax.tree.map(lambda a: np.array(a), batch)
            for path, leaf in jax.tree.leaves_with_path(batch):
                if leaf.shape[:1] != (self.batch_size,):
                    raise ValueError(
                        f"the batch of step {step} must have {self.batch_size} "
                        f"(batch_size) samples as its first axis, got "
                        f"{leaf.shape} at data{jax.tree_util.keystr(path)}."
                    )
            self._require_the_same_kind(batch, step)
            self.kept = step, batch
        return self.kept[1]

    def _require_the_same_kind(self, batch: PyTree, step: int) -> None:
        kinds = {
            jax.tree_util.keystr(path): (leaf.dtype, leaf.shape)
            for path, leaf in jax.tree.leaves_with_path(batch)
        }
        self.kinds = self.kinds or kinds
        if kinds != self.kinds:
            raise ValueError(
                f"every batch must have the shapes and dtypes of the first, "
                f"{self.kinds}, got {kinds} at step {step}."
            )
        self.check_labels(batch)

    def _next(self, step: int) -> PyTree:
        assert self.iterable is not None
        before = -1 if self.kept is None else self.kept[0]
        iterator = self.iterator = self.iterator or iter(self.iterable)
        skip = step - before - 1  # a resumed run passes over what it has seen
        batch = next(itertools.islice(iterator, skip, None), None)
        if batch is None:
            raise ValueError(
                f"the data ended before step {step}. Give an iterable of at least "
                "`steps` batches (a generator that loops for ever, say), or arrays."
            )
        return batch


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Steps `first` to `first + count - 1`, and their samples on the devices."""

    first: int
    count: int
    samples: PyTree


def take(array: Any, index: np.ndarray) -> np.ndarray:
    """Rows in any order, from a file that only reads them in ascending order (HDF5)."""
    if isinstance(array, np.ndarray):
        return np.take(array, index, axis=0)
    places, back = np.unique(index, return_inverse=True)
    return np.asarray(array[places])[back]


def _digest(array: Any) -> str:
    """A hash of an array, or of a thousand of its rows if it is too large."""
    large = np.asarray(array[:1]).nbytes * len(array) > _HASHED
    rows = array[:: max(1, len(array) // 1000) if large else 1]
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:16]


def _is_array(value: Any) -> bool:
    """An array, or an object with a shape and row slices: HDF5, zarr."""
    wanted = ("shape", "dtype", "__len__", "__getitem__")
    return all(hasattr(value, name) for name in wanted)


def is_rows(data: Any) -> bool:
    """Arrays, or a pytree of arrays, with one row for each sample."""
    if _is_array(data):
        return True
    leaves = jax.tree.leaves(data) if isinstance(data, _CONTAINERS) else []
    return bool(leaves) and all(map(_is_array, leaves))


def require_finite_data(leaf: np.ndarray, where: str, name: str) -> None:
    """Check that floating-point data have no NaN and no infinity."""
    if not np.issubdtype(leaf.dtype, np.inexact) or np.isfinite(leaf).all():
        return
    bad = ~np.isfinite(leaf)
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    raise ValueError(
        f"{name} must be finite, got NaN or infinite entries in {int(bad.sum())} of "
        f"{leaf.size}, the first at {first} of {name}{where}. Drop or mend those "
        "samples."
    )


def as_source(
    data: PyTree | Iterable | Callable, batch_size: int, seed: Any
) -> AbstractSource:
    """The source for the `data` argument of `fit`."""
    if data is None:
        return NoData(batch_size)
    if is_rows(data):
        return ArrayData(data, batch_size, seed)
    if _is_array(data) or (not callable(data) and isinstance(data, _CONTAINERS)):
        leaves = jax.tree.leaves(data)
        got = f"a {type(data).__name__} of {sorted({type(x).__name__ for x in leaves})}"
    elif callable(data) or (isinstance(data, Iterable) and not isinstance(data, str)):
        return StepData(data, batch_size)
    else:
        got = type(data).__name__
    raise ValueError(
        "data must be an array, a tuple or dict of arrays, an iterable of batches, or "
        f"a function from the step to a batch, got {got}. np.asarray makes an array."
    )


def plan(
    start: int, stop: int, most: int, every: Sequence[int | None]
) -> Iterator[tuple[int, int]]:
    """(first step, count) of each dispatch; none crosses a multiple of `every`."""
    step = start
    while step < stop:
        ends = [step + most, stop]
        ends += [(step // n + 1) * n for n in every if n]
        yield step, min(ends) - step
        step = min(ends)


def batches(
    source: AbstractSource,
    place: Place,
    batch_size: int,
    most: int,
    steps: Iterator[tuple[int, int]],
) -> Iterator[Dispatch]:
    """The dispatches of a plan, all of one shape."""
    share = batch_size // place.processes
    part = slice(place.process * share, (place.process + 1) * share)

    def buffer(row: np.ndarray) -> np.ndarray:
        per_device = (place.local, most, share // place.local, *row.shape[1:])
        return np.zeros(per_device, jax.dtypes.canonicalize_dtype(row.dtype))

    for first, count in steps:
        rows = [source.rows(first + i, part) for i in range(count)]
        samples = jax.tree.map(buffer, rows[0])
        for i, row in enumerate(rows):
            for into, here in zip(*map(jax.tree.leaves, (samples, row)), strict=True):
                into[:, i] = np.asarray(here).reshape(into[:, i].shape)
        for path, leaf in jax.tree.leaves_with_path(samples):
            name = (
                f"{jax.tree_util.keystr(path)} of steps {first} to {first + count - 1}"
            )
            require_finite_data(leaf, name, "data")
        yield Dispatch(first, count, place.split(samples))


@contextlib.contextmanager
def prefetched(
    dispatches: Iterator[Dispatch], stopping: Callable[[], bool], ahead: int = 2
) -> Iterator[Iterator[Dispatch]]:
    """The same dispatches, prepared by a thread up to `ahead` before their use.

    They end early when `stopping()` is true, even if the data block.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    closed = threading.Event()
    x64 = jnp.zeros(()).dtype == jnp.float64  # a thread starts with JAX's defaults

    def put(item: Any) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            with jax.enable_x64(x64):
                for dispatch in dispatches:
                    if not put(dispatch):
                        return
            put(None)
        except BaseException as error:
            put(error)

    def received() -> Iterator[Dispatch]:
        while not stopping():
            with contextlib.suppress(queue.Empty):
                item = ready.get(timeout=0.2)
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                yield item

    thread = threading.Thread(target=work, name="pidax data", daemon=True)
    thread.start()
    try:
        yield received()
    finally:
        closed.set()
        thread.join(timeout=1)  # it may be waiting for data, and ends with the process
