"""Where samples come from, and in which order: a function of the key and the step.

Arrays (in memory or memory-mapped) are visited in a new random order in every epoch.
The order of epoch e is that of a generator seeded with (key, e), and step s takes the
rows s B .. s B + B - 1 of the epochs laid end to end, so a resumed run goes on with the
very row at which it was killed, and no state is kept for it.
"""

import abc
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

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
        """What another run must share to be the same run."""

    @abc.abstractmethod
    def rows(self, step: int, part: slice) -> PyTree:
        """This part of the batch of this step."""


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
    """A pytree of arrays with one row for each sample."""

    def __init__(self, arrays: PyTree, batch_size: int, seed: Any):
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(arrays)]
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
            lambda a: a if isinstance(a, np.ndarray) else np.asarray(a), arrays
        )
        self.batch_size = batch_size
        self.seed = tuple(int(word) for word in np.ravel(seed))
        self.epochs: dict[int, np.ndarray] = {}
        for path, leaf in jax.tree.leaves_with_path(self.arrays):
            if leaf.nbytes <= _IN_MEMORY and not isinstance(leaf, np.memmap):
                require_finite_data(leaf, jax.tree_util.keystr(path), "data")

    def example(self) -> PyTree:
        return self.arrays

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
        return jax.tree.map(lambda a: np.take(a, index, axis=0), self.arrays)

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
        integers = any(np.issubdtype(d, np.integer) for d, _ in kinds.values())
        if integers and self.check is not None:
            self.check(batch)  # labels may be out of range

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


def _digest(array: np.ndarray) -> str:
    """A hash of an array, or of a thousand of its rows where it is too large."""
    if array.nbytes > _HASHED:
        array = array[:: max(1, len(array) // 1000)]
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def require_finite_data(leaf: np.ndarray, where: str, name: str) -> None:
    """Floating-point data hold no NaN and no infinity."""
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
    """The source that the `data` of `fit` means."""
    if data is None:
        return NoData(batch_size)
    if not callable(data) and isinstance(data, jax.Array | np.ndarray | _CONTAINERS):
        leaves = jax.tree.leaves(data)
        if leaves and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
            return ArrayData(data, batch_size, seed)
        got = f"a {type(data).__name__} of {sorted({type(x).__name__ for x in leaves})}"
    elif callable(data) or (isinstance(data, Iterable) and not isinstance(data, str)):
        return StepData(data, batch_size)
    else:
        got = type(data).__name__
    raise ValueError(
        "data must be an array, a tuple or dict of arrays, an iterable of batches, or "
        f"a function from the step to a batch, got {got}. np.asarray makes an array."
    )
